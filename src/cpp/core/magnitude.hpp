// How large the entries of a stored matrix are: max |a_ij| and Σ a_ij², with one read.
//
// Sums are of pieces whose size does not depend on the threads, in their order: so are their bits.
//
// cost    one read of A at the rate of the memory.
// Call outside parallel regions.
#pragma once

#include "core/matrix_product.hpp"

namespace flatcore {

// `largest` is NaN where an entry is NaN or infinite; `squares` is infinite where float64 cannot hold it.
using simd::Magnitude;

// A needs one unit stride.
Magnitude magnitude(const StoredMatrix& A, RunControl& control);

}  // namespace flatcore
