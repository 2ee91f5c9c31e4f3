#include <memory>

#include "bindings/chain_object.hpp"
#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "core/hessian.hpp"

namespace flatcore::bindings {

namespace {

// The chain's owners travel with the kernel, which reads the weights in every product.
template <class T>
struct HessianObject {
    std::vector<py::object> owners;
    ChainHessian<T> kernel;
};

HessianObject<double> make_hessian(const ChainObject& chain, bool narrow_output, const py::object& factor) {
    RunControl control = python_control();
    const auto end = narrow_output ? NarrowEnd::output : NarrowEnd::input;
    const auto view = factor.is_none() ? ConstMatrixView<double>() : const_view<double>(factor.cast<py::array>());
    const auto build = [&] {
        const py::gil_scoped_release release;
        return ChainHessian<double>(chain.chain, end, view, control);
    };
    return {chain.owners, build()};
}

// loss(rows) with rows (k, m, q), a view valid during the call; returns an array of the same shape.
template <class T>
LossHessian<T> python_loss(const py::function& loss) {
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
        .def_property_readonly("narrow_width", [](const Object& self) { return self.kernel.narrow_width(); })
        .def(
            "end_to_end", [](const Object& self) { return to_numpy(self.kernel.end_to_end()); },
            "Φ (m, q), or its transpose in whitened coordinates, at the far end.")
        .def(
            "set_loss_gradient",
            [](Object& self, const py::array& G) {
                RunControl control = python_control();
                const auto view = const_view<T>(G);
                const py::gil_scoped_release release;
                self.kernel.set_loss_gradient(view, control);
            },
            py::arg("G"))
        .def("gradient",
             [](const Object& self) {
                 RunControl control = python_control();
                 py::array_t<T> out(self.kernel.chain().num_parameters());
                 T* data = out.mutable_data();
                 {
                     const py::gil_scoped_release release;
                     self.kernel.gradient(data, control);
                 }
                 return out;
             })
        .def(
            "product",
            [](const Object& self, const py::array& directions, py::array out, bool gauss_newton,
               const py::function& loss) {
                RunControl control = python_control();
                const auto in = const_view<T>(directions);
                const auto target = mutable_view<T>(out);
                const auto curvature = gauss_newton ? Curvature::gauss_newton : Curvature::hessian;
                const LossHessian<T> loss_hessian = python_loss<T>(loss);
                const py::gil_scoped_release release;
                self.kernel.product(in, target, curvature, loss_hessian, control);
            },
            py::arg("directions"), py::arg("out"), py::arg("gauss_newton"), py::arg("loss"),
            "Rows of `out` (k, P) become the products of the rows of `directions`.");
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
            return HessianObject<float>{self.owners, ChainHessian<float>(self.kernel)};
        },
        py::arg("hessian"), "The same partial products, rounded to float32.");
}

}  // namespace flatcore::bindings
