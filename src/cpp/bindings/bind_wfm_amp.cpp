#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "bindings/wfm_tasks.hpp"
#include "core/wfm/amp.hpp"

namespace flatcore::bindings {

namespace {

py::tuple bound_amp_sweep(const py::object& task, double c, const py::array& m, const FloatArray& V, py::array g,
                          double damping) {
    const wfm::Task view = task_view(task);
    require(V.ndim() == 1 && V.size() == view.units, "a variance for each unit");
    require(m.ndim() == 2 && m.shape(0) == view.units && m.shape(1) == view.patterns.inputs && g.ndim() == 2 &&
                g.shape(0) == view.patterns.patterns && g.shape(1) == view.units,
            "means or outputs have the wrong shape");
    py::array_t<double> gamma(view.units), square(view.units);
    wfm::AmpSums sums;
    sums.gamma = gamma.mutable_data();
    sums.square = square.mutable_data();
    py::array S;
    dispatch(m, [&](auto zero) {
        using T = decltype(zero);
        Matrix<T> out(view.units, view.patterns.inputs);
        const auto means = const_view<T>(m);
        const auto outputs = mutable_view<T>(g);
        const double* const variances = V.data();
        RunControl control = python_control();
        {
            const py::gil_scoped_release release;
            wfm::amp_sweep<T>(view, c, means, variances, outputs, damping, out.view(), sums, control);
        }
        S = to_numpy(std::move(out));
    });
    return py::make_tuple(S, gamma, square, sums.log_partition, sums.change);
}

}  // namespace

void bind_wfm_amp(py::module_& module) {
    module.def(
        "wfm_amp_sweep", &bound_amp_sweep, py::arg("task"), py::arg("c"), py::arg("m"), py::arg("V"), py::arg("g"),
        py::arg("damping"),
        "One sweep of approximate message passing, outputs g (P, K) in place: S (K, n), sums (K) of Γ and of g², "
        "the log partition function and the change.");
}

}  // namespace flatcore::bindings
