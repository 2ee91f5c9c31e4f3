// The chain as Python holds it: the core's views and the arrays that own their memory.
#pragma once

#include <vector>

#include "bindings/numpy_views.hpp"
#include "core/chain.hpp"

namespace flatcore::bindings {

struct ChainObject {
    std::vector<py::object> owners;
    Chain chain;
};

}  // namespace flatcore::bindings
