// A LAPACK table with Fortran calling conventions and arithmetic by Eigen: for programs without a BLAS, and for tests.
//
// One thread, and the instruction set the compiler assumes; singular values by Jacobi's method, in float64. Stricter
// than a BLAS where that finds errors: a wrong argument throws std::logic_error with its position, workspaces are
// overwritten to their full announced size, and matrices that LAPACK may destroy come back as NaN.
#pragma once

#include "core/lapack.hpp"

namespace flatcore {

LapackTable eigen_lapack();

}  // namespace flatcore
