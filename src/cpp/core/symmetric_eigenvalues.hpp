// Eigenvalues of a symmetric matrix by LAPACK's divide and conquer (dsyevd), ascending.
//
// cost    about 4/3·n³ flops; one uninterruptible LAPACK call.
#pragma once

#include <vector>

#include "core/run_control.hpp"
#include "core/views.hpp"

namespace flatcore {

// Reads one triangle of A and consumes its memory.
std::vector<double> symmetric_eigenvalues(Matrix<double> A, RunControl& control);

}  // namespace flatcore
