#include <pybind11/stl.h>

#include "bindings/numpy_views.hpp"
#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "core/many_chains.hpp"

namespace flatcore::bindings {

namespace {

StackedLayer stacked_layer(const py::array& array) {
    require(array.ndim() == 3, "expected (batch, d_j, d_{j-1}), got ", array.ndim(), " dimensions");
    const Scalar scalar = scalar_of_array(array);
    require(scalar == Scalar::f32 || scalar == Scalar::f64, "expected float32 or float64 weights");
    const Index size = array.itemsize();
    return {array.data(), scalar, array.strides(0) / size, array.strides(1) / size, array.strides(2) / size};
}

ManyChains stack_of(const std::vector<py::array>& weights, const py::array& basis, const std::vector<double>& roots,
                    const py::array& target, double scale, double constant) {
    ManyChains out;
    out.batch = weights.front().shape(0);
    out.dims.push_back(weights.front().shape(2));
    for (const py::array& layer : weights) {
        out.dims.push_back(layer.shape(1));
        out.layers.push_back(stacked_layer(layer));
    }
    out.basis = const_view<double>(basis);
    out.roots = roots;
    out.target = const_view<double>(target);
    out.scale = scale;
    out.constant = constant;
    return out;
}

template <class T>
py::dict many(const ManyChains& chains, const ManyOptions& options, bool vectors) {
    const Index batch = chains.batch, k = options.k, pairs = static_cast<Index>(chains.layers.size()) - 1;
    Index parameters = 0;
    for (std::size_t j = 1; j < chains.dims.size(); ++j) parameters += chains.dims[j] * chains.dims[j - 1];
    py::dict out;
    const auto array = [&](const char* name, auto zero, std::vector<Index> shape) {
        py::array_t<decltype(zero)> made(shape);
        out[name] = made;
        return made.mutable_data();
    };
    ManyResults<T> results{};
    results.values = array("values", 0.0, {batch, k});
    results.residuals = array("residuals", 0.0, {batch, k});
    results.extent = array("extent", 0.0, {batch});
    results.width = array("width", 0.0, {batch});
    results.loss = array("loss", 0.0, {batch});
    results.gradient_norm = array("gradient_norm", 0.0, {batch});
    results.spectral_norm = array("spectral_norm", 0.0, {batch});
    results.gap = array("gap", 0.0, {batch, pairs});
    results.relative_gap = array("relative_gap", 0.0, {batch, pairs});
    results.status = array("status", std::int32_t{0}, {batch});
    results.products = array("products", std::int64_t{0}, {batch});
    results.steps = array("steps", std::int64_t{0}, {batch});
    if (vectors) results.vectors = array("vectors", T(0), {batch, k, parameters});
    RunControl control = python_control();
    const py::gil_scoped_release release;
    many_sharpness<T>(chains, options, results, control);
    return out;
}

py::dict bound_many(const std::vector<py::array>& weights, const py::array& basis, const std::vector<double>& roots,
                    const py::array& target, double scale, double constant, const py::dict& settings) {
    const ManyChains chains = stack_of(weights, basis, roots, target, scale, constant);
    ManyOptions options;
    options.k = settings["k"].cast<Index>();
    options.tol = settings["tol"].cast<double>();
    options.max_steps = settings["max_steps"].cast<Index>();
    options.certified_steps = settings["certified_steps"].cast<Index>();
    options.seed = settings["seed"].cast<std::uint64_t>();
    options.curvature = settings["gauss_newton"].cast<bool>() ? Curvature::gauss_newton : Curvature::hessian;
    options.measures = settings["measures"].cast<bool>();
    const bool vectors = settings["vectors"].cast<bool>();
    const bool single = scalar_of_array(weights.front()) == Scalar::f32;
    return single ? many<float>(chains, options, vectors) : many<double>(chains, options, vectors);
}

}  // namespace

void bind_many(py::module_& module) {
    module.def("many_sharpness", &bound_many, py::arg("weights"), py::arg("basis"), py::arg("roots"), py::arg("target"),
               py::arg("scale"), py::arg("constant"), py::arg("settings"),
               "Top curvatures and measures of a stack of chains, by name; weights (batch, d_j, d_{j-1}).");
}

}  // namespace flatcore::bindings
