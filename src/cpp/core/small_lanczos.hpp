// Lanczos for the largest eigenvalue of one small chain's curvature, orthogonal to vectors already found.
//
//   H q_j = β_j q_{j−1} + α_j q_j + β_{j+1} q_{j+1}
//
// The estimates ω_{j+1,i} of q_{j+1}ᵀq_i follow (Simon 1984)
//   β_{j+1} ω_{j+1,i} = β_{i+1} ω_{j,i+1} + (α_i − α_j) ω_{j,i} + β_i ω_{j,i−1} − β_j ω_{j−1,i} ± u(β_{i+1} + β_{j+1})
// (u the unit roundoff; rounding errors along one q_i are random, so this is generous: 30 times the truth in one
// chain); where one exceeds √eps, q_{j+1} and q_{j+2} are orthogonalised against all before them. T is then the
// projection of H to rounding, and the Ritz value θ has the residual β_{j+1}|s_j|, s the top eigenvector of T. (A
// threshold of √tol is 2 % faster at tol = 1e-4, but what a pass removes is missing in the recurrence: long runs to
// 1e-9 then stall.)
//
// When the basis is full the Ritz vector starts the next process. Vectors are padded as in padded_chain.hpp.
#pragma once

#include <functional>
#include <vector>

#include "core/padded_chain.hpp"
#include "core/tridiagonal.hpp"

namespace flatcore {

struct LanczosLimits {
    double tol;           // relative to a lower bound of ‖H‖
    Index least_steps;    // before the first look at the Ritz value
    Index most_products;  // of the whole chain
};

template <class T>
class SmallLanczos {
 public:
    SmallLanczos(const ChainGeometry& geometry, Index most_locked);

    void begin(const simd::SmallChain<T>& chain);  // forgets all that was found
    // Runs from `ritz()`, whatever it holds, to its tolerance; afterwards `ritz()` is the unit Ritz vector. `pulse` is
    // called with every product and may throw.
    enum class End { converged, limit, overflow };
    End run(const LanczosLimits& limits, const std::function<void()>& pulse);
    // Adds `ritz()` to the vectors to work orthogonally to.
    void lock();

    T* ritz() const { return ritz_.data(); }
    const T* locked(Index i) const { return locked_.data() + i * length_; }
    Index found() const { return found_; }
    Index products() const { return products_; }
    // Of the last run before its first restart; 0 where these spanned the whole Krylov space of the start.
    Index steps() const { return steps_; }
    double scale() const { return scale_; }  // a lower bound of ‖H‖
    const Tridiagonal& projection() const { return T_; }

 private:
    T* row(Index j) const { return basis_.data() + j * length_; }
    void orthogonalise(T* w, Index known) const;
    bool normalise_start();
    double extend();  // β_{j+1}
    double reorthogonalised(double beta);
    bool estimates_exceed(double beta);
    double top_residual(double beta);
    void combine();

    const ChainGeometry& geometry_;
    const simd::SmallChainKernels<T>& kernels_;
    Index length_, capacity_;
    simd::SmallChain<T> chain_;
    AlignedArray<T> basis_, locked_, ritz_;
    Tridiagonal T_;
    std::vector<double> s_, omega_, previous_omega_, next_omega_;
    Index found_ = 0, products_ = 0, steps_ = 0;
    bool again_ = false;
    double scale_ = 0.0, theta_ = 0.0, residual_ = 0.0;
};

}  // namespace flatcore
