#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "bindings/wfm_tasks.hpp"

namespace flatcore::bindings {

namespace {

py::tuple bound_edge_sweep(const py::object& task, FloatArray& a, const FloatArray& b, double damping) {
    const wfm::Task view = task_view(task);
    const wfm::EdgeMessages messages = messages_view(view, a);
    const auto fields = units_view(view, b);
    Matrix<double> S(view.units, view.patterns.inputs);
    RunControl control = python_control();
    double change = 0.0;
    {
        const py::gil_scoped_release release;
        change = wfm::edge_sweep(view, messages, fields, damping, S.view(), control);
    }
    return py::make_tuple(to_numpy(std::move(S)), change);
}

}  // namespace

void bind_wfm_edges(py::module_& module) {
    module.def("wfm_padded_inputs", &wfm::padded_inputs, py::arg("inputs"), "Entries of a row of messages.");
    module.def("wfm_edge_sweep", &bound_edge_sweep, py::arg("task"), py::arg("a"), py::arg("b"), py::arg("damping"),
               "One sweep of belief propagation: messages a (P, K, padded) in place; sums (K, n) and the change.");
}

}  // namespace flatcore::bindings
