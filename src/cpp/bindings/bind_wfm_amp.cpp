#include <vector>

#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "bindings/wfm_tasks.hpp"
#include "core/wfm/amp.hpp"

namespace flatcore::bindings {

namespace {

struct BoundSums {
    std::vector<double> gamma;
    py::array_t<double> square;
    wfm::AmpSums sums;

    explicit BoundSums(Index units) : gamma(static_cast<std::size_t>(units)), square(units) {
        sums.gamma = gamma.data();
        sums.square = square.mutable_data();
    }
};

template <class T>
MatrixView<T> rows_of(py::array& array, Index rows, Index cols, const char* name) {
    require(array.ndim() == 2 && array.shape(0) == rows && array.shape(1) == cols, name, " have the wrong shape");
    require((array.flags() & py::array::c_style) != 0, name, " are not contiguous");
    return mutable_view<T>(array);
}

py::tuple bound_gaussian_sweep(const BoundTask& view, double c, py::array m, const FloatArray& V, py::array g,
                               FloatArray gamma, double damping) {
    require(V.ndim() == 1 && V.size() == view.units && gamma.ndim() == 1 && gamma.size() == view.units,
            "a variance and a sum for each unit");
    BoundSums bound(view.units);
    py::array S;
    dispatch(m, [&](auto zero) {
        using T = decltype(zero);
        Matrix<T> out(view.units, view.patterns.inputs);
        const MatrixView<T> means = rows_of<T>(m, view.units, view.patterns.inputs, "means");
        const MatrixView<T> outputs = rows_of<T>(g, view.patterns.patterns, view.units, "outputs");
        const double* const variances = V.data();
        double* const kept = gamma.mutable_data();
        RunControl control = python_control();
        {
            const py::gil_scoped_release release;
            wfm::gaussian_amp_sweep<T>(view, c, means, variances, outputs, kept, damping, out.view(), bound.sums,
                                       control);
        }
        S = to_numpy(std::move(out));
    });
    return py::make_tuple(S, bound.square, bound.sums.log_partition, bound.sums.change);
}

py::tuple bound_binary_sweep(const BoundTask& view, py::array f, py::array g, double damping, py::array S) {
    BoundSums bound(view.units);
    py::array_t<double> variances(view.units);
    dispatch(S, [&](auto zero) {
        using T = decltype(zero);
        const MatrixView<T> field = rows_of<T>(f, view.units, view.patterns.inputs, "fields");
        const MatrixView<T> sums = rows_of<T>(S, view.units, view.patterns.inputs, "sums");
        const MatrixView<T> outputs = rows_of<T>(g, view.patterns.patterns, view.units, "outputs");
        double* const V = variances.mutable_data();
        RunControl control = python_control();
        const py::gil_scoped_release release;
        wfm::binary_amp_sweep<T>(view, field, outputs, damping, sums, V, bound.sums, control);
    });
    return py::make_tuple(variances, bound.square, bound.sums.log_partition, bound.sums.change);
}

}  // namespace

void bind_wfm_amp(py::module_& module) {
    py::class_<BoundTask>(module, "WfmTask", "Packed patterns with what multiplies them and what the output must be.")
        .def(py::init<WordArray, Index, Index, SignArray, SignArray, bool, Index>(), py::arg("words"),
             py::arg("patterns"), py::arg("inputs"), py::arg("sign"), py::arg("target"), py::arg("parity"),
             py::arg("units"));
    module.def("wfm_gaussian_amp_sweep", &bound_gaussian_sweep, py::arg("task"), py::arg("c"), py::arg("m"),
               py::arg("V"), py::arg("g"), py::arg("gamma").noconvert(), py::arg("damping"),
               "One sweep of approximate message passing, outputs g (P, K) and sums gamma (K) of Γ in place: H (K, n), "
               "sums (K) of g², the log partition function and the change.");
    module.def("wfm_binary_amp_sweep", &bound_binary_sweep, py::arg("task"), py::arg("f"), py::arg("g"),
               py::arg("damping"), py::arg("S"),
               "The same for binary weights with m = tanh(S + f), outputs g (P, K) and S (K, n) in place: variances "
               "(K) of the fields, sums (K) of g², the log partition function and the change.");
}

}  // namespace flatcore::bindings
