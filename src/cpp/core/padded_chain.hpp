// One chain of a stack as the kernels of simd/small_chain.hpp want it: padded rows, partial products, a loss gradient.
//
// The narrow end is the output where d_M ≤ r, else the input. Input: near_0 = Lᵀ, U_s = W_sᵀ, no metric. Output:
// near_0 = I, U_s = W_{M+1−s} but U_M = W_1 Q: in the orthonormal basis Q of the inputs, S = LLᵀ is the diagonal
// metric, and the Hessian is orthogonally similar. A parameter vector holds blocks s = 1 … M of e_{s−1} × padded e_s.
#pragma once

#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "core/many_chains.hpp"
#include "core/simd/small_chain.hpp"

namespace flatcore {

// Zeros on cache-line boundaries.
template <class T>
class AlignedArray {
 public:
    AlignedArray() = default;
    explicit AlignedArray(Index size) : data_(allocate(size)) {
        std::memset(static_cast<void*>(data_.get()), 0, static_cast<std::size_t>(size) * sizeof(T));
    }
    T* data() const { return data_.get(); }

 private:
    static constexpr std::align_val_t kLine{64};
    struct Free {
        void operator()(T* p) const { ::operator delete(p, kLine); }
    };
    static T* allocate(Index size) {
        return static_cast<T*>(::operator new(static_cast<std::size_t>(size) * sizeof(T) + 64, kLine));
    }
    std::unique_ptr<T, Free> data_;
};

// Sizes shared by all chains of a stack; rows padded to `lanes` entries.
struct ChainGeometry {
    ChainGeometry(const ManyChains& chains, int lanes);

    Index pad(Index n) const { return (n + lanes - 1) / lanes * lanes; }
    Index layer(Index s) const { return output ? depth + 1 - s : s; }  // the layer that link s is made of

    Index lanes, depth;
    bool output;
    Index m, m_padded, widest;
    std::vector<Index> width, padded, offset;  // by level, level, link
    Index length;                              // of a padded vector
    Index parameters;                          // P
};

// The matrices of a SmallChain<T> and its scratch.
template <class T>
class PaddedChain {
 public:
    explicit PaddedChain(const ChainGeometry& geometry);
    // The partial products in this precision.
    void round_from(const PaddedChain<double>& other);

    simd::SmallChain<T> view(Curvature curvature) const;
    T* link(Index s) const { return links_[static_cast<std::size_t>(s)].data(); }
    T* near(Index s) const { return nears_[static_cast<std::size_t>(s)].data(); }
    T* far(Index s) const { return fars_[static_cast<std::size_t>(s)].data(); }
    T* far_turned(Index s) const { return fars_turned_[static_cast<std::size_t>(s)].data(); }
    T* metric() const { return metric_.data(); }
    T scale = T(1);

 private:
    const ChainGeometry& geometry_;
    std::vector<AlignedArray<T>> links_, nears_, fars_, fars_turned_, dnears_;
    AlignedArray<T> metric_, sigma_, turned_, next_;
    std::vector<T*> link_pointers_, near_pointers_, far_pointers_, turned_pointers_, dnear_pointers_;
};

// What is measured of a chain beside its curvature.
struct ChainMeasures {
    double gradient_norm, spectral_norm;
    std::vector<double> gap, relative_gap;  // of layers j and j + 1
};

// Loads chains of the stack in float64 and measures them.
class ChainLoader {
 public:
    ChainLoader(const ManyChains& chains, const ChainGeometry& geometry);

    // Chain i and its partial products; false where they overflow.
    bool load(Index i);
    double loss() const;
    ChainMeasures measure();
    const PaddedChain<double>& chain() const { return chain_; }
    // The block of W_1 (d_1 × padded d_0) in the inputs' own coordinates, where it is in the basis Q.
    void unrotate(const double* block, double* out) const;

 private:
    void read_links(Index i);
    void sweep_near();
    bool sweep_far();
    double gradient_norm();
    double spectral_norm();
    void balance(Index s, double& gap, double& relative);
    void multiply(Index m, Index n, simd::Term<double> term, double* c, Index ldc) const;

    const ManyChains& stack_;
    const ChainGeometry& geometry_;
    const simd::SmallChainKernels<double>& kernels_;
    PaddedChain<double> chain_;
    AlignedArray<double> basis_;  // Q, padded; needed at the output end
    AlignedArray<double> residual_, square_, other_, spare_;
    AlignedArray<double> target_, roots_;  // at the far end, padded: T or its transpose, and what its columns are times
    double residual_norm2_ = 0.0;
};

}  // namespace flatcore
