#include <pybind11/stl.h>

#include "bindings/chain_object.hpp"
#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "core/balance.hpp"
#include "core/coupling.hpp"
#include "core/gains.hpp"
#include "core/svd.hpp"

namespace flatcore::bindings {

namespace {

template <class T>
py::tuple svd_of(Matrix<T> A) {
    RunControl control = python_control();
    auto result = [&] {
        const py::gil_scoped_release release;
        return thin_svd<T>(std::move(A), control);
    }();
    return py::make_tuple(to_numpy(std::move(result.U)), to_numpy(result.s), to_numpy(std::move(result.Vt)));
}

py::tuple bound_thin_svd(const py::array& A) {
    const StoredMatrix stored = stored_matrix(A);
    return stored.scalar == Scalar::f64 ? svd_of<double>(stored.converted<double>())
                                        : svd_of<float>(stored.converted<float>());
}

py::tuple bound_layer_svd(const ChainObject& self, Index layer) {
    require(layer >= 0 && layer < self.chain.depth(), "layer ", layer, " of a chain of depth ", self.chain.depth());
    return self.chain.layer(layer + 1).weight.scalar == Scalar::f64 ? svd_of<double>(self.chain.link<double>(layer + 1))
                                                                    : svd_of<float>(self.chain.link<float>(layer + 1));
}

py::tuple bound_balance(const ChainObject& self, const py::object& progress) {
    RunControl control = python_control(progress);
    const auto rows = [&] {
        const py::gil_scoped_release release;
        return layer_balance(self.chain, control);
    }();
    std::vector<double> gap, relative;
    for (const LayerBalance& row : rows) {
        gap.push_back(row.gap);
        relative.push_back(row.relative);
    }
    return py::make_tuple(to_numpy(gap), to_numpy(relative));
}

py::tuple bound_partial_norms(const ChainObject& self) {
    RunControl control = python_control();
    const auto norms = [&] {
        const py::gil_scoped_release release;
        return partial_norms(self.chain, control);
    }();
    return py::make_tuple(to_numpy(norms.bottom), to_numpy(norms.top));
}

py::array_t<double> bound_overlaps(const py::array& U, const py::array& Vt) {
    require(U.ndim() == 2 && Vt.ndim() == 2, "overlaps need two matrices");
    Matrix<double> out(U.shape(1), Vt.shape(0));
    RunControl control = python_control();
    const auto run = [&](auto t) {
        using T = decltype(t);
        const auto u = const_view<T>(U), v = const_view<T>(Vt);
        const py::gil_scoped_release release;
        overlaps<T>(u, v, out.view(), control);
    };
    if (scalar_of_array(U) == Scalar::f32)
        run(float{});
    else
        run(double{});
    return to_numpy(std::move(out));
}

py::tuple bound_strongest_path(const std::vector<std::vector<double>>& sigma, const std::vector<py::array>& pairs) {
    std::vector<ConstMatrixView<double>> views;
    for (const py::array& pair : pairs) views.push_back(const_view<double>(pair));
    const Path path = strongest_path(sigma, views);
    return py::make_tuple(path.indices, path.log_strength);
}

py::tuple bound_gain_profile(const ChainObject& self, const std::vector<double>& v) {
    RunControl control = python_control();
    const auto profile = [&] {
        const py::gil_scoped_release release;
        return gain_profile(self.chain, v, control);
    }();
    return py::make_tuple(to_numpy(profile.gains), to_numpy(profile.residuals));
}

}  // namespace

void bind_weights(py::module_& module) {
    module.def("thin_svd", &bound_thin_svd, py::arg("A"), "U, s, Vt of a matrix.");
    module.def("layer_svd", &bound_layer_svd, py::arg("chain"), py::arg("layer"), "U, s, Vt of one layer's link.");
    module.def("layer_balance", &bound_balance, py::arg("chain"), py::arg("progress") = py::none(),
               "Gaps and relative gaps of consecutive layers.");
    module.def("partial_norms", &bound_partial_norms, py::arg("chain"), "Norms of bottom and top partial products.");
    module.def("overlaps", &bound_overlaps, py::arg("U"), py::arg("Vt"), "|Uᵀ V|, columns of U against rows of Vt.");
    module.def("strongest_path", &bound_strongest_path, py::arg("sigma"), py::arg("overlaps"),
               "Indices and logarithm of the strength of the strongest path.");
    module.def("gain_profile", &bound_gain_profile, py::arg("chain"), py::arg("v"), "Gains and residuals along v.");
}

}  // namespace flatcore::bindings
