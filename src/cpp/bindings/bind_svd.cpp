#include "bindings/numpy_views.hpp"
#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "core/magnitude.hpp"
#include "core/normal_product.hpp"

namespace flatcore::bindings {

namespace {

void bound_normal_product(const py::array& A, const py::array& X, py::array out, double scale) {
    RunControl control = python_control();
    const StoredMatrix stored = stored_matrix(A);
    dispatch(out, [&](auto t) {
        using T = decltype(t);
        const auto y = mutable_view<T>(out);
        const auto x = const_view<T>(X);
        const py::gil_scoped_release release;
        normal_product<T>(static_cast<T>(scale), stored, x, y, control);
    });
}

void bound_stored_product(const py::array& X, const py::array& A, py::array out) {
    RunControl control = python_control();
    const StoredMatrix stored = stored_matrix(A);
    dispatch(out, [&](auto t) {
        using T = decltype(t);
        const auto y = mutable_view<T>(out);
        const auto x = const_view<T>(X);
        const py::gil_scoped_release release;
        multiply_stored<T>(x, stored, T(0), y, control);
    });
}

py::tuple bound_magnitude(const py::array& A) {
    RunControl control = python_control();
    const StoredMatrix stored = stored_matrix(A);
    Magnitude found{};
    {
        const py::gil_scoped_release release;
        found = magnitude(stored, control);
    }
    return py::make_tuple(found.largest, found.squares);
}

}  // namespace

void bind_svd(py::module_& module) {
    module.def("normal_product", &bound_normal_product, py::arg("A"), py::arg("X"), py::arg("out"), py::arg("scale"),
               "out = scale² X AᵀA with one read of A; rows of X are vectors.");
    module.def("stored_product", &bound_stored_product, py::arg("X"), py::arg("A"), py::arg("out"),
               "out = X A in the precision of out, whatever that of A.");
    module.def("magnitude", &bound_magnitude, py::arg("A"),
               "max |a_ij|, NaN where A is not finite, and the sum of the squares in float64.");
}

}  // namespace flatcore::bindings
