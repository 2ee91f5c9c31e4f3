// Errors of the core: one exception type per meaning, translated to Python in exactly one place (bindings/module.cpp).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace flatcore {

// The caller's arguments contradict each other; becomes ValueError.
class InvalidArgument : public std::invalid_argument {
 public:
    using std::invalid_argument::invalid_argument;
};

// A LAPACK routine reported that it did not converge; becomes RuntimeError.
class NumericalFailure : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

// require(ok, "layer ", j, " has ", r, " rows") throws InvalidArgument with the parts joined.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
    if (ok) return;
    std::ostringstream message;
    (message << ... << parts);
    throw InvalidArgument(message.str());
}

}  // namespace flatcore
