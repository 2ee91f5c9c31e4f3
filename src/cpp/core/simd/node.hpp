// The output node of a committee for eight patterns side by side (core/wfm/node.hpp has the equations).
//
// Arrays of units hold K rows of kNodeLanes entries, one a pattern: r, f the probabilities that a unit's sign is
// positive, negative; p₊, p₋ the messages, normalised with odds within e^{±60}; log Z. K >= 2.
//
// scratch  node_scratch(K) entries
#pragma once

#include <cstddef>

namespace flatcore::simd {

using Index = std::ptrdiff_t;

constexpr Index kNodeLanes = 8;
constexpr Index node_scratch(Index units) { return 2 * (units + 1) * (units + 1) * kNodeLanes; }

struct NodeKernels {
    void (*majority)(Index units, const double* rise, const double* fall, double* plus, double* minus, double* log_z,
                     double* scratch);
    // target: ±1 a pattern.
    void (*parity)(Index units, const double* rise, const double* fall, const double* target, double* plus,
                   double* minus, double* log_z, double* scratch);
    // φ(z)(p₊ − p₋)/[p₊Φ(z) + p₋Φ(−z)] of n entries, a multiple of kNodeLanes; where certain, p₊ = 1 and p₋ = 0.
    void (*slope)(Index n, bool certain, const double* z, const double* plus, const double* minus, double* slope);
};

}  // namespace flatcore::simd
