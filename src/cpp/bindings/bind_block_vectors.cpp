#include <cstdint>

#include "bindings/numpy_views.hpp"
#include "bindings/recycler.hpp"
#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "core/block_vectors.hpp"

namespace flatcore::bindings {

namespace {

py::array_t<double> bound_gram(const py::array& V, const py::array& W) {
    Matrix<double> out(V.shape(0), W.shape(0));
    RunControl control = python_control();
    dispatch(V, [&](auto t) {
        using T = decltype(t);
        const auto v = const_view<T>(V), w = const_view<T>(W);
        const py::gil_scoped_release release;
        gram<T>(v, w, out.view(), control);
    });
    return to_numpy(std::move(out));
}

void bound_update(py::array W, const py::array& V, const py::array& C) {
    RunControl control = python_control();
    dispatch(W, [&](auto t) {
        using T = decltype(t);
        const auto w = mutable_view<T>(W);
        const auto v = const_view<T>(V);
        const auto c = const_view<double>(C);
        const py::gil_scoped_release release;
        update<T>(w, v, c, control);
    });
}

void bound_combine(py::array V, const py::array& C) {
    RunControl control = python_control();
    dispatch(V, [&](auto t) {
        using T = decltype(t);
        const auto v = mutable_view<T>(V);
        const auto c = const_view<double>(C);
        const py::gil_scoped_release release;
        combine<T>(v, c, control);
    });
}

void bound_to_rows(const py::array& V, py::array out) {
    dispatch(out, [&](auto t) {
        using T = decltype(t);
        const auto v = const_view<T>(V);
        const auto rows = mutable_view<T>(out);
        const py::gil_scoped_release release;
        to_rows<T>(v, rows);
    });
}

void bound_fill_normal(py::array V, std::uint64_t seed) {
    dispatch(V, [&](auto t) {
        using T = decltype(t);
        const auto v = mutable_view<T>(V);
        const py::gil_scoped_release release;
        fill_normal<T>(v, seed);
    });
}

}  // namespace

void bind_block_vectors(py::module_& module) {
    py::class_<Recycler>(module, "Recycler", "Memory for results of one size, used again once they are freed.")
        .def(py::init<>())
        .def("empty32", &Recycler::empty<float>, py::arg("rows"), py::arg("cols"), "An uninitialised float32 array.")
        .def("empty64", &Recycler::empty<double>, py::arg("rows"), py::arg("cols"), "An uninitialised float64 array.");
    module.def("gram", &bound_gram, py::arg("V"), py::arg("W"), "V Wᵀ in float64; rows are vectors.");
    module.def("update", &bound_update, py::arg("W"), py::arg("V"), py::arg("C"), "W -= Cᵀ V in place.");
    module.def("combine", &bound_combine, py::arg("V"), py::arg("C"), "First rows of V become Cᵀ V, in place.");
    module.def("to_rows", &bound_to_rows, py::arg("V"), py::arg("out"), "out (b, N) becomes Vᵀ.");
    module.def("fill_normal", &bound_fill_normal, py::arg("V"), py::arg("seed"),
               "Fill V with standard normal entries.");
}

}  // namespace flatcore::bindings
