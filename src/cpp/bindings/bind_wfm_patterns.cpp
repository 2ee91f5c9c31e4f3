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
    return product_like(g, g.shape(1), inputs,
                        [&](auto in, auto out, RunControl& control) { wfm::sums(view, in, out, control); });
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
}

}  // namespace flatcore::bindings
