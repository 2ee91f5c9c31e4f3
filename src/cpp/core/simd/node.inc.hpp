// The kernels of node.hpp. Included inside a set's own namespace, after edges.inc.hpp.

constexpr double kLeastOdds = 8.75651076269652e-27;  // e^{−60}

// A vector of each row of `units`, at lane `first`.
struct NodeRows {
    const double* at;
    Double operator[](Index k) const { return load(at + k * kNodeLanes); }
};

inline void store_message(Double plus, Double minus, double* to_plus, double* to_minus) {
    plus = most(plus, kLeastOdds * minus);
    minus = most(minus, kLeastOdds * plus);
    const Double over = 1.0 / (plus + minus);
    store(to_plus, plus * over);
    store(to_minus, minus * over);
}

// left[k][c]: c of 0 … k − 1 are positive. right[k][c]: at least c of k … K − 1 are.
void majority_lanes(Index K, NodeRows rise, NodeRows fall, double* plus, double* minus, double* log_z,
                    double* scratch) {
    constexpr Index L = Lanes<double>::count;
    const Index row = K + 1, half = (K - 1) / 2;
    double *const left = scratch, *const right = scratch + row * row * L;
    store(left, all(1.0));
    for (Index k = 0; k + 1 < K; ++k) {
        const Double r = rise[k], f = fall[k];
        const double* const before = left + k * row * L;
        double* const after = left + (k + 1) * row * L;
        store(after, load(before) * f);
        for (Index c = 1; c <= k; ++c) store(after + c * L, load(before + c * L) * f + load(before + (c - 1) * L) * r);
        store(after + (k + 1) * L, load(before + k * L) * r);
    }
    store(right + K * row * L, all(1.0));
    for (Index c = 1; c <= half + 1; ++c) store(right + (K * row + c) * L, Double{});
    for (Index k = K - 1; k > 0; --k) {
        const Double r = rise[k], f = fall[k];
        const double* const before = right + (k + 1) * row * L;
        double* const after = right + k * row * L;
        store(after, all(1.0));
        for (Index c = 1; c <= half + 1; ++c)
            store(after + c * L, load(before + c * L) * f + load(before + (c - 1) * L) * r);
    }
    Double partition{};
    for (Index k = 0; k < K; ++k) {
        const double *const law = left + k * row * L, *const tail = right + (k + 1) * row * L;
        Double enough{}, more{};
        for (Index c = 0; c <= k; ++c) {
            enough += load(law + c * L) * load(tail + (c < half ? half - c : 0) * L);
            more += load(law + c * L) * load(tail + (c < half + 1 ? half + 1 - c : 0) * L);
        }
        partition = enough * rise[k] + more * fall[k];
        store_message(enough, more, plus + k * kNodeLanes, minus + k * kNodeLanes);
    }
    store(log_z, log_of(partition));
}

void node_majority(Index units, const double* rise, const double* fall, double* plus, double* minus, double* log_z,
                   double* scratch) {
    for (Index i = 0; i < kNodeLanes; i += Lanes<double>::count)
        majority_lanes(units, {rise + i}, {fall + i}, plus + i, minus + i, log_z + i, scratch);
}

// Probabilities that a product of signs is +, −.
struct Product {
    Double even, odd;
    Product times(Double rise, Double fall) const { return {even * rise + odd * fall, even * fall + odd * rise}; }
};

void parity_lanes(Index K, NodeRows rise, NodeRows fall, Double target, double* plus, double* minus, double* log_z,
                  double* scratch) {
    constexpr Index L = Lanes<double>::count;
    Product right{all(1.0), all(0.0)}, left = right;
    for (Index k = K - 1; k >= 0; --k) {  // of k + 1 … K − 1
        store(scratch + 2 * k * L, right.even);
        store(scratch + (2 * k + 1) * L, right.odd);
        right = right.times(rise[k], fall[k]);
    }
    Double partition{};
    for (Index k = 0; k < K; ++k) {
        const Product others = left.times(load(scratch + 2 * k * L), load(scratch + (2 * k + 1) * L));
        const Double same = target > 0.0 ? others.even : others.odd, other = target > 0.0 ? others.odd : others.even;
        partition = same * rise[k] + other * fall[k];
        store_message(same, other, plus + k * kNodeLanes, minus + k * kNodeLanes);
        left = left.times(rise[k], fall[k]);
    }
    store(log_z, log_of(partition));
}

void node_parity(Index units, const double* rise, const double* fall, const double* target, double* plus, double* minus,
                 double* log_z, double* scratch) {
    for (Index i = 0; i < kNodeLanes; i += Lanes<double>::count)
        parity_lanes(units, {rise + i}, {fall + i}, load(target + i), plus + i, minus + i, log_z + i, scratch);
}

void node_slope(Index n, bool certain, const double* z, const double* plus, const double* minus, double* slope) {
    for (Index i = 0; i < n; i += Lanes<double>::count)
        store(slope + i,
              certain ? certain_slope(load(z + i)) : soft_slope(load(z + i), load(plus + i), load(minus + i)));
}

constexpr NodeKernels node_kernels() { return {node_majority, node_parity, node_slope}; }
