// Entries of a sweep of approximate message passing (core/wfm/amp.hpp has the equations): the means of binary weights,
// and the outputs of machines of one unit, whose output node is certain of the unit's sign. State and arithmetic are of
// type T, sums of double.
//
// cost    an exponential and a division a weight; erfcx, an exponential, a quarter of a logarithm and two divisions an
//         output
#pragma once

#include <cstddef>
#include <cstdint>

namespace flatcore::simd {

using Index = std::ptrdiff_t;

// Inputs cξ, the variance of the field, the damping λ.
struct AmpUnit {
    double c, variance, damping;
};

// Added to: Σ log Z, Σ Γ, Σ g²; raised to: the largest |g' − g|·√V.
struct AmpOutputSums {
    double log_partition = 0.0, gamma = 0.0, square = 0.0, change = 0.0;
};

template <class T>
struct AmpKernels {
    // m = tanh(S + f) of n weights; returns Σ (1 − m²).
    double (*means)(Index n, const T* S, const T* f, T* m);
    // Outputs g of n patterns, in place; ω = Σ ξ m comes in as `fields` and leaves as sign·g.
    void (*outputs)(Index n, const AmpUnit& unit, const std::int8_t* sign, T* fields, T* g, AmpOutputSums& sums);
};

template <class T>
const AmpKernels<T>& amp();

}  // namespace flatcore::simd
