#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "bindings/wfm_tasks.hpp"
#include "core/wfm/bethe.hpp"

namespace flatcore::bindings {

namespace {

py::tuple bound_edge_sweep(const BoundTask& view, FloatArray& a, const FloatArray& b, double damping, bool exact) {
    const wfm::EdgeMessages messages = messages_view(view, a);
    const auto fields = units_view(view, b);
    Matrix<double> S(view.units, view.patterns.inputs);
    RunControl control = python_control();
    double change = 0.0;
    {
        const py::gil_scoped_release release;
        const auto sweep = exact ? wfm::exact_sweep : wfm::edge_sweep;
        change = sweep(view, messages, fields, damping, S.view(), control);
    }
    return py::make_tuple(to_numpy(std::move(S)), change);
}

double bound_edge_bethe(const BoundTask& view, FloatArray& a, const FloatArray& b, bool exact) {
    const wfm::EdgeMessages messages = messages_view(view, a);
    const auto fields = units_view(view, b);
    RunControl control = python_control();
    const py::gil_scoped_release release;
    return wfm::edge_bethe(view, messages, fields, exact ? wfm::FieldLaw::exact : wfm::FieldLaw::normal, control);
}

py::tuple bound_gaussian_sweep(const BoundTask& view, FloatArray& g, FloatArray& gamma, const FloatArray& mean,
                               const FloatArray& variance, double damping) {
    const wfm::EdgeMessages messages = messages_view(view, g);
    const auto known = outputs_view(view, gamma);
    const MatrixView<double> gammas(gamma.mutable_data(), known.rows, known.cols);
    require(variance.ndim() == 1 && variance.size() == view.units, "a variance for each unit");
    const wfm::GaussianUnits units{units_view(view, mean), variance.data()};
    Matrix<double> H(view.units, view.patterns.inputs);
    py::array_t<double> G(view.units);
    const wfm::GaussianSums sums{H.view(), G.mutable_data()};
    RunControl control = python_control();
    double change = 0.0;
    {
        const py::gil_scoped_release release;
        change = wfm::gaussian_sweep(view, messages, gammas, units, damping, sums, control);
    }
    return py::make_tuple(to_numpy(std::move(H)), G, change);
}

py::tuple bound_focused_law(const py::array& H, const FloatArray& G, double gamma, double replicas) {
    py::array m;
    py::array_t<double> s(G.size());
    dispatch(H, [&](auto zero) {
        using T = decltype(zero);
        const ConstMatrixView<T> fields = const_view<T>(H);
        require(G.ndim() == 1 && G.size() == fields.rows, "a precision for each unit");
        py::array_t<T> means({fields.rows, fields.cols});
        wfm::focused_law<T>(fields, G.data(), gamma, replicas, {means.mutable_data(), fields.rows, fields.cols},
                            s.mutable_data());
        m = means;
    });
    return py::make_tuple(m, s);
}

}  // namespace

void bind_wfm_edges(py::module_& module) {
    module.def("wfm_padded_inputs", &wfm::padded_inputs, py::arg("inputs"), "Entries of a row of messages.");
    module.def("wfm_edge_sweep", &bound_edge_sweep, py::arg("task"), py::arg("a"), py::arg("b"), py::arg("damping"),
               py::arg("exact") = false,
               "One sweep of belief propagation: messages a (P, K, padded) in place; sums (K, n) and the change.");
    module.def("wfm_edge_bethe", &bound_edge_bethe, py::arg("task"), py::arg("a"), py::arg("b"),
               py::arg("exact") = false, "The Bethe free entropy without the weights' own terms.");
    module.def("wfm_gaussian_sweep", &bound_gaussian_sweep, py::arg("task"), py::arg("g"), py::arg("gamma"),
               py::arg("mean"), py::arg("variance"), py::arg("damping"),
               "The same for continuous weights: messages g (P, K, padded) and gamma (P, K) in place; H (K, n), G (K), "
               "the change.");
    module.def("wfm_focused_law", &bound_focused_law, py::arg("H"), py::arg("G"), py::arg("gamma"), py::arg("replicas"),
               "Means (K, n) and variances (K) of weights of one of several replicas.");
}

}  // namespace flatcore::bindings
