// Learning tasks of the message-passing kernels, and views of the arrays that go with them.
#pragma once

#include <utility>
#include <vector>

#include "bindings/wfm_arrays.hpp"
#include "core/wfm/edge_bp.hpp"

namespace flatcore::bindings {

using SignArray = py::array_t<std::int8_t, py::array::c_style>;
using FloatArray = py::array_t<double, py::array::c_style>;

// A task with the arrays that it looks at: made once, so that a sweep of microseconds need not check them.
struct BoundTask : wfm::Task {
    BoundTask(WordArray words_, Index count, Index inputs, SignArray sign_, SignArray target_, bool parity,
              Index units_)
        : words_of(std::move(words_)), sign_of(std::move(sign_)), target_of(std::move(target_)) {
        patterns = patterns_view(words_of, count, inputs);
        require(sign_of.size() == count && target_of.size() == count, "a sign and a target for each of ", count,
                " patterns");
        sign = sign_of.data();
        target = target_of.data();
        activation = parity ? wfm::Activation::parity : wfm::Activation::majority;
        units = units_;
        require(patterns.segments == 1 || units == patterns.segments, units, " units; the patterns are cut into ",
                patterns.segments, " segments");
        turned_words = wfm::turned(patterns);
        if (!turned_words.empty()) patterns.turned = turned_words.data();
    }

    WordArray words_of;
    SignArray sign_of, target_of;
    std::vector<std::uint32_t> turned_words;
};

inline wfm::EdgeMessages messages_view(const wfm::Task& task, FloatArray& a) {
    const Index ld = wfm::padded_inputs(task.patterns.inputs);
    require(a.ndim() == 3 && a.shape(0) == task.patterns.patterns && a.shape(1) == task.units && a.shape(2) == ld,
            "messages have the wrong shape");
    return {a.mutable_data(), task.units, ld};
}

// (K, n)
inline ConstMatrixView<double> units_view(const wfm::Task& task, const FloatArray& array) {
    require(array.ndim() == 2 && array.shape(0) == task.units && array.shape(1) == task.patterns.inputs,
            "an array of the weights has the wrong shape");
    return {array.data(), array.shape(0), array.shape(1)};
}

// (P, K)
inline ConstMatrixView<double> outputs_view(const wfm::Task& task, const FloatArray& array) {
    require(array.ndim() == 2 && array.shape(0) == task.patterns.patterns && array.shape(1) == task.units,
            "an array of the activations has the wrong shape");
    return {array.data(), array.shape(0), array.shape(1)};
}

}  // namespace flatcore::bindings
