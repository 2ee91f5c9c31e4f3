// The largest eigenpair of a symmetric tridiagonal matrix, at O(n) an iteration and without its other eigenpairs.
//
//   T: n × n with diagonal a_0 … a_{n-1} and couplings b_i between i − 1 and i (b_0 is not read).
//
// The value by Laguerre's method from above: with the pivots d_i = x − a_i − b_i²/d_{i−1} of x − T, all positive for x
// above the spectrum, log det(x − T) = Σ log d_i gives G = Σ 1/(x − λ_i) and H = Σ 1/(x − λ_i)², and
//   x ← x − n / (G + √((n − 1)(nH − G²)))
// descends to the largest eigenvalue, cubically where it is simple. The vector by the twisted factorisation: pivots d
// from above and u from below meet at the row where γ_i = d_i + u_i − (x − a_i) is smallest.
//
// Sources: Parlett, The Symmetric Eigenvalue Problem (1998); Parlett & Dhillon, Linear Algebra Appl. 267 (1997).
#pragma once

#include <vector>

#include "core/views.hpp"

namespace flatcore {

struct Tridiagonal {
    std::vector<double> a, b;

    Index size() const { return static_cast<Index>(a.size()); }
    Tridiagonal negated() const;
};

// `hint`: a guess from above; one that is not above the spectrum does no harm.
double largest_eigenvalue(const Tridiagonal& T, double hint);

// The unit eigenvector of an eigenvalue λ known to rounding.
std::vector<double> eigenvector(const Tridiagonal& T, double lambda);

}  // namespace flatcore
