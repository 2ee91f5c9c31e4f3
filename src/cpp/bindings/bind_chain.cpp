#include <pybind11/stl.h>

#include <optional>

#include "bindings/chain_object.hpp"
#include "bindings/registrations.hpp"

namespace flatcore::bindings {

namespace {

ChainObject make_chain(const std::vector<py::array>& weights, const std::vector<std::optional<py::array>>& biases,
                       const std::vector<bool>& skips) {
    require(biases.size() == weights.size() && skips.size() == weights.size(), weights.size(), " weights, ",
            biases.size(), " biases and ", skips.size(), " skip flags");
    std::vector<Layer> layers;
    std::vector<py::object> owners;
    for (std::size_t j = 0; j < weights.size(); ++j) {
        Layer layer{stored_matrix(weights[j]), nullptr, static_cast<bool>(skips[j])};
        owners.push_back(weights[j]);
        if (const auto& bias = biases[j]) {
            require(bias->ndim() == 1 && bias->shape(0) == layer.weight.rows && bias->strides(0) == bias->itemsize() &&
                        scalar_of_array(*bias) == layer.bias_scalar(),
                    "bias ", j + 1,
                    " must be contiguous, of its weight's height and precision (float32 beside half precision)");
            layer.bias = bias->data();
            owners.push_back(*bias);
        }
        layers.push_back(layer);
    }
    return {std::move(owners), Chain(std::move(layers))};
}

}  // namespace

void bind_chain(py::module_& module) {
    py::class_<ChainObject>(module, "Chain", "Read-only views of a chain's weights.")
        .def(py::init(&make_chain), py::arg("weights"), py::arg("biases"), py::arg("skips"))
        .def(
            "fingerprint", [](const ChainObject& self) { return self.chain.fingerprint(); },
            "A hash of a sample of the weights' entries.");
}

}  // namespace flatcore::bindings
