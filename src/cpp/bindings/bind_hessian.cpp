#include <pybind11/stl.h>

#include <memory>

#include "bindings/chain_object.hpp"
#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "core/dual.hpp"
#include "core/hessian.hpp"
#include "core/reduced_hessian.hpp"

namespace flatcore::bindings {

namespace {

// The chain's owners travel with the kernel, which reads the weights in every product.
template <class T>
struct HessianObject {
    std::vector<py::object> owners;
    std::shared_ptr<ChainHessian<T>> kernel;
};

template <class T>
struct ReducedObject {
    std::vector<py::object> owners;
    ReducedHessian<T> kernel;
};

HessianObject<double> make_hessian(const ChainObject& chain, bool narrow_output, const py::object& factor) {
    RunControl control = python_control();
    const auto end = narrow_output ? NarrowEnd::output : NarrowEnd::input;
    const auto view = factor.is_none() ? ConstMatrixView<double>() : const_view<double>(factor.cast<py::array>());
    const auto build = [&] {
        const py::gil_scoped_release release;
        return std::make_shared<ChainHessian<double>>(chain.chain, end, view, control);
    };
    return {chain.owners, build()};
}

// A symmetric matrix (q, q) that rows are multiplied by, or a function: loss(rows) with rows (k, m, q), a view valid
// during the call, returns an array of the same shape.
template <class T>
LossHessian<T> python_loss(const py::object& loss, RunControl& control) {
    if (py::isinstance<py::array>(loss))
        return matrix_loss<T>(const_view<T>(py::reinterpret_borrow<py::array>(loss)), control);
    return [&loss](MatrixView<T> rows, Index directions) {
        const py::gil_scoped_acquire gil;
        const py::capsule borrowed(rows.data, [](void*) {});
        py::array_t<T> argument({directions, rows.rows / directions, rows.cols}, rows.data, borrowed);
        const py::array_t<T, py::array::c_style | py::array::forcecast> image = loss(argument);
        require(image.ndim() == 3 && image.size() == rows.rows * rows.cols,
                "the loss's hessian_product returned the wrong number of entries");
        std::copy_n(image.data(), image.size(), rows.data);
    };
}

template <class T>
void bind_one(py::module_& module, const char* name) {
    using Object = HessianObject<T>;
    py::class_<Object>(module, name, "Narrow-end gradient, Hessian and Gauss–Newton products.")
        .def_property_readonly("narrow_width", [](const Object& self) { return self.kernel->narrow_width(); })
        .def(
            "end_to_end", [](const Object& self) { return to_numpy(self.kernel->end_to_end()); },
            "Φ (m, q), or its transpose in whitened coordinates, at the far end.")
        .def(
            "set_loss_gradient",
            [](Object& self, const py::array& G) {
                RunControl control = python_control();
                const auto view = const_view<T>(G);
                const py::gil_scoped_release release;
                self.kernel->set_loss_gradient(view, control);
            },
            py::arg("G"))
        .def("gradient",
             [](const Object& self) {
                 RunControl control = python_control();
                 py::array_t<T> out(self.kernel->chain().num_parameters());
                 T* data = out.mutable_data();
                 {
                     const py::gil_scoped_release release;
                     self.kernel->gradient(data, control);
                 }
                 return out;
             })
        .def(
            "product",
            [](const Object& self, const py::array& directions, py::array out, bool gauss_newton,
               const py::object& loss) {
                RunControl control = python_control();
                const auto in = const_view<T>(directions);
                const auto target = mutable_view<T>(out);
                const auto curvature = gauss_newton ? Curvature::gauss_newton : Curvature::hessian;
                const LossHessian<T> loss_hessian = python_loss<T>(loss, control);
                const py::gil_scoped_release release;
                self.kernel->product(in, target, curvature, loss_hessian, control);
            },
            py::arg("directions"), py::arg("out"), py::arg("gauss_newton"), py::arg("loss"),
            "Rows of `out` (k, P) become the products of the rows of `directions`.");
}

// One layer of a direction, written by write(weight, bias): (W, None) or (W, b).
template <class T, class Write>
py::tuple layer_arrays(const ReducedObject<T>& self, Index layer, const Write& write) {
    const Chain& chain = self.kernel.full().chain();
    require(layer >= 1 && layer <= chain.depth(), "layer ", layer, " of ", chain.depth());
    py::array_t<T> weight({chain.dim(layer), chain.dim(layer - 1)});
    py::object bias = py::none();
    T* bias_data = nullptr;
    if (chain.layer(layer).bias) {
        py::array_t<T> vector(chain.dim(layer));
        bias_data = vector.mutable_data();
        bias = vector;
    }
    RunControl control = python_control();
    const auto view = mutable_view<T>(weight);
    {
        const py::gil_scoped_release release;
        write(view, bias_data, control);
    }
    return py::make_tuple(weight, bias);
}

template <class T>
void bind_reduced(py::module_& module, const char* name) {
    using Object = ReducedObject<T>;
    const auto rows_to_rows = [](auto method) {
        return [method](const Object& self, const py::array& in, py::array out) {
            RunControl control = python_control();
            const auto source = const_view<T>(in);
            const auto target = mutable_view<T>(out);
            const py::gil_scoped_release release;
            (self.kernel.*method)(source, target, control);
        };
    };
    py::class_<Object>(module, name, "Products in the coordinates of the nonzero eigenvalues.")
        .def_property_readonly("dimension", [](const Object& self) { return self.kernel.dimension(); })
        .def(
            "product",
            [](const Object& self, const py::array& z, py::array out, const py::object& loss) {
                RunControl control = python_control();
                const auto in = const_view<T>(z);
                const auto target = mutable_view<T>(out);
                const LossHessian<T> loss_hessian = python_loss<T>(loss, control);
                const py::gil_scoped_release release;
                self.kernel.product(in, target, loss_hessian, control);
            },
            py::arg("z"), py::arg("out"), py::arg("loss"), "Rows of `out` (k, N) become the products of the rows of z.")
        .def("lift", rows_to_rows(&ReducedHessian<T>::lift), py::arg("z"), py::arg("directions"),
             "Rows of `directions` (k, P) become the directions the rows of z (k, N) stand for.")
        .def("project", rows_to_rows(&ReducedHessian<T>::project), py::arg("directions"), py::arg("z"),
             "The adjoint of lift.")
        .def("pull_back", rows_to_rows(&ReducedHessian<T>::pull_back), py::arg("far_rows"), py::arg("out"),
             "The adjoint of end_to_end_change.")
        .def(
            "end_to_end_change",
            [](const Object& self, const py::array& z) {
                RunControl control = python_control();
                const auto in = const_view<T>(z);
                const auto change = [&] {
                    const py::gil_scoped_release release;
                    return self.kernel.end_to_end_change(in, control);
                };
                return to_numpy(change());
            },
            py::arg("z"), "Far rows (k·m, q): how the end-to-end matrix moves along the rows of z.")
        .def(
            "lift_layer",
            [](const Object& self, const py::array& z, Index layer) {
                const auto row = const_view<T>(z);
                require(row.rows == 1 && row.cols == self.kernel.dimension(), "expected one reduced direction");
                return layer_arrays(self, layer, [&](MatrixView<T> weight, T* bias, RunControl& control) {
                    self.kernel.lift_layer(layer, row.data, weight, bias, control);
                });
            },
            py::arg("z"), py::arg("layer"), "Weight and bias (or None) of layer 1 … M of the direction z (1, N).")
        .def(
            "num_annihilated", [](const Object& self, Index layer) { return self.kernel.num_annihilated(layer); },
            py::arg("layer"), "Orthonormal directions of one layer with image zero, outside the reduced space.")
        .def(
            "annihilated",
            [](const Object& self, Index layer, Index index) {
                return layer_arrays(self, layer, [&](MatrixView<T> weight, T* bias, RunControl& control) {
                    self.kernel.annihilated(layer, index, weight, bias, control);
                });
            },
            py::arg("layer"), py::arg("index"), "Weight and bias (or None) of one of them.");
}

ReducedObject<double> make_reduced(const HessianObject<double>& hessian, bool gauss_newton) {
    RunControl control = python_control();
    const auto curvature = gauss_newton ? Curvature::gauss_newton : Curvature::hessian;
    const auto build = [&] {
        const py::gil_scoped_release release;
        return ReducedHessian<double>(hessian.kernel, curvature, control);
    };
    return {hessian.owners, build()};
}

std::vector<py::array_t<double>> make_side_grams(const ChainObject& chain, const py::object& factor) {
    RunControl control = python_control();
    const auto side = factor.is_none() ? NarrowEnd::output : NarrowEnd::input;
    const auto view = factor.is_none() ? ConstMatrixView<double>() : const_view<double>(factor.cast<py::array>());
    const auto compute = [&] {
        const py::gil_scoped_release release;
        return side_grams(chain.chain, side, view, control);
    };
    std::vector<py::array_t<double>> out;
    for (Matrix<double>& gram : compute()) out.push_back(to_numpy(std::move(gram)));
    return out;
}

}  // namespace

void bind_hessian(py::module_& module) {
    bind_one<double>(module, "ChainHessian64");
    bind_one<float>(module, "ChainHessian32");
    module.def("chain_hessian", &make_hessian, py::arg("chain"), py::arg("narrow_output"), py::arg("factor"),
               "Partial products in float64 whatever the weights' precision.");
    module.def(
        "in_float32",
        [](const HessianObject<double>& self) {
            return HessianObject<float>{self.owners, std::make_shared<ChainHessian<float>>(*self.kernel)};
        },
        py::arg("hessian"), "The same partial products, rounded to float32.");
    bind_reduced<double>(module, "ReducedHessian64");
    bind_reduced<float>(module, "ReducedHessian32");
    module.def("reduced_hessian", &make_reduced, py::arg("hessian"), py::arg("gauss_newton"),
               "The Hessian, or Gauss–Newton matrix, where its eigenvalues are not zero.");
    module.def(
        "reduced_in_float32",
        [](const ReducedObject<double>& self, const HessianObject<float>& hessian) {
            return ReducedObject<float>{self.owners, ReducedHessian<float>(self.kernel, hessian.kernel)};
        },
        py::arg("reduced"), py::arg("hessian"), "The same coordinates, rounded to float32.");
    module.def("side_grams", &make_side_grams, py::arg("chain"), py::arg("factor"),
               "A_j A_jᵀ of every layer, or (B_j L)ᵀ (B_j L) for the factor Lᵀ.");
}

}  // namespace flatcore::bindings
