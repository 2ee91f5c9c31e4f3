// The LAPACK table of the tests: Fortran calling conventions, arithmetic by Eigen.
//
// Stricter than a BLAS where that finds errors: a wrong argument throws std::logic_error with its position, workspaces
// are overwritten to their full announced size, and matrices that LAPACK may destroy come back as NaN.
#pragma once

#include "core/lapack.hpp"

namespace flatcore::testing {

LapackTable eigen_lapack();

}  // namespace flatcore::testing
