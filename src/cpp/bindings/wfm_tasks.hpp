// A learning task of the message-passing kernels: the tuple (words, patterns, inputs, sign, target, parity, units).
#pragma once

#include "bindings/wfm_arrays.hpp"
#include "core/wfm/edge_bp.hpp"

namespace flatcore::bindings {

using SignArray = py::array_t<std::int8_t, py::array::c_style>;
using FloatArray = py::array_t<double, py::array::c_style>;

// The caller holds the tuple, and with it the arrays, for as long as it uses the view.
inline wfm::Task task_view(const py::object& object) {
    const auto parts = object.cast<py::tuple>();
    require(parts.size() == 7, "a task has 7 parts, got ", parts.size());
    require(py::isinstance<WordArray>(parts[0]) && py::isinstance<SignArray>(parts[3]) &&
                py::isinstance<SignArray>(parts[4]),
            "a task's words are uint32, its signs and targets int8");
    wfm::Task task;
    task.patterns = patterns_view(parts[0].cast<WordArray>(), parts[1].cast<Index>(), parts[2].cast<Index>());
    const auto sign = parts[3].cast<SignArray>(), target = parts[4].cast<SignArray>();
    require(sign.size() == task.patterns.patterns && target.size() == task.patterns.patterns,
            "a sign and a target for each of ", task.patterns.patterns, " patterns");
    task.sign = sign.data();
    task.target = target.data();
    task.activation = parts[5].cast<bool>() ? wfm::Activation::parity : wfm::Activation::majority;
    task.units = parts[6].cast<Index>();
    require(task.patterns.segments == 1 || task.units == task.patterns.segments, task.units,
            " units; the patterns are cut into ", task.patterns.segments, " segments");
    return task;
}

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
