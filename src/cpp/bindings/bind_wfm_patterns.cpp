#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "bindings/wfm_arrays.hpp"

namespace flatcore::bindings {

namespace {

using ByteArray = py::array_t<std::uint8_t, py::array::c_style>;

void bound_pack(WordArray& words, Index patterns, Index inputs, const ByteArray& strings, Index first) {
    const wfm::Patterns view = patterns_view(words, patterns, inputs);
    require(strings.ndim() == 2, "bit strings are rows of a matrix");
    std::uint32_t* const out = words.mutable_data();
    const py::gil_scoped_release release;
    wfm::pack(view, strings.data(), strings.shape(1), first, strings.shape(0), out);
}

ByteArray bound_unpack(const WordArray& words, Index patterns, Index inputs, Index first, Index count) {
    const wfm::Patterns view = patterns_view(words, patterns, inputs);
    ByteArray strings({count, (view.segments * inputs + 7) / 8});
    std::uint8_t* const out = strings.mutable_data();
    const py::gil_scoped_release release;
    wfm::unpack(view, first, count, out, (view.segments * inputs + 7) / 8);
    return strings;
}

// A product of the patterns with a matrix in the matrix's precision.
template <class Product>
py::array product_like(const py::array& matrix, Index rows, Index cols, const Product& product) {
    py::array result;
    dispatch(matrix, [&](auto zero) {
        using T = decltype(zero);
        Matrix<T> out(rows, cols);
        RunControl control = python_control();
        const auto view = const_view<T>(matrix);
        {
            const py::gil_scoped_release release;
            product(view, out.view(), control);
        }
        result = to_numpy(std::move(out));
    });
    return result;
}

py::array bound_fields(const WordArray& words, Index patterns, Index inputs, const py::array& m) {
    const wfm::Patterns view = patterns_view(words, patterns, inputs);
    return product_like(m, patterns, m.shape(0),
                        [&](auto in, auto out, RunControl& control) { wfm::fields(view, in, out, control); });
}

py::array bound_sums(const WordArray& words, Index patterns, Index inputs, const py::array& g) {
    const wfm::Patterns view = patterns_view(words, patterns, inputs);
    require(g.ndim() == 2 && g.shape(0) == patterns, "outputs are (P, K), one row a pattern");
    return product_like(g, g.shape(1), inputs,
                        [&](auto in, auto out, RunControl& control) { wfm::sums(view, in, out, control); });
}

using SignArray = py::array_t<std::int8_t, py::array::c_style>;

WordArray bound_rows(const WordArray& words, Index patterns, Index inputs) {
    const wfm::Patterns view = patterns_view(words, patterns, inputs);
    WordArray out({patterns, view.segments, view.words()});
    std::uint32_t* const data = out.mutable_data();
    const py::gil_scoped_release release;
    wfm::rows(view, data);
    return out;
}

WordArray bound_pack_signs(const SignArray& signs) {
    require(signs.ndim() == 2, "signs are rows of a matrix");
    const Index rows = signs.shape(0), inputs = signs.shape(1);
    WordArray out({rows, (inputs + wfm::kWord - 1) / wfm::kWord});
    std::uint32_t* const data = out.mutable_data();
    const py::gil_scoped_release release;
    wfm::pack_signs(rows, inputs, signs.data(), data);
    return out;
}

py::array_t<std::int32_t> bound_binary_fields(const WordArray& words, Index patterns, Index inputs,
                                              const WordArray& weights) {
    const wfm::Patterns view = patterns_view(words, patterns, inputs);
    require(weights.ndim() == 2 && weights.shape(1) == view.words(), "weights are words (K, C)");
    const Index units = weights.shape(0);
    py::array_t<std::int32_t> out({patterns, units});
    std::int32_t* const data = out.mutable_data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    wfm::binary_fields(view, units, weights.data(), data, control);
    return out;
}

py::array_t<std::int64_t> bound_binary_errors(const WordArray& words, Index patterns, Index inputs,
                                              const WordArray& weights, const SignArray& labels, bool parity) {
    const wfm::Patterns view = patterns_view(words, patterns, inputs);
    require(weights.ndim() == 3 && weights.shape(2) == view.words(), "weights are words (B, K, C)");
    require(labels.ndim() == 1 && labels.shape(0) == patterns, "labels are one for each pattern");
    const Index machines = weights.shape(0), units = weights.shape(1);
    py::array_t<std::int64_t> out(machines);
    std::int64_t* const data = out.mutable_data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    wfm::binary_errors(view, machines, units, weights.data(), labels.data(), parity, data, control);
    return out;
}

}  // namespace

void bind_wfm_patterns(py::module_& module) {
    module.def("wfm_pack", &bound_pack, py::arg("words"), py::arg("patterns"), py::arg("inputs"), py::arg("strings"),
               py::arg("first"), "Write bit strings (count, ceil(S n / 8)) as patterns first, first + 1, …");
    module.def("wfm_unpack", &bound_unpack, py::arg("words"), py::arg("patterns"), py::arg("inputs"), py::arg("first"),
               py::arg("count"), "The bit strings of patterns first … first + count - 1.");
    module.def("wfm_fields", &bound_fields, py::arg("words"), py::arg("patterns"), py::arg("inputs"), py::arg("m"),
               "Fields (P, K) of the units with weights m (K, n).");
    module.def("wfm_sums", &bound_sums, py::arg("words"), py::arg("patterns"), py::arg("inputs"), py::arg("g"),
               "Sums (K, n) over patterns of their inputs times g (P, K).");
    module.def("wfm_rows", &bound_rows, py::arg("words"), py::arg("patterns"), py::arg("inputs"),
               "The words pattern by pattern: (P, S, C).");
    module.def("wfm_pack_signs", &bound_pack_signs, py::arg("signs").noconvert(),
               "The words (R, C) of rows of int8 ±1 (R, n), the lowest bit first.");
    module.def("wfm_binary_fields", &bound_binary_fields, py::arg("words"), py::arg("patterns"), py::arg("inputs"),
               py::arg("weights").noconvert(), "Fields (P, K), int32, of units with weights ±1 as words (K, C).");
    module.def("wfm_binary_errors", &bound_binary_errors, py::arg("words"), py::arg("patterns"), py::arg("inputs"),
               py::arg("weights").noconvert(), py::arg("labels").noconvert(), py::arg("parity"),
               "Errors (B,) of machines with weights ±1 as words (B, K, C).");
}

}  // namespace flatcore::bindings
