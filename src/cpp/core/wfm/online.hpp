// Online learning of committee machines: one epoch, pattern after pattern in a given order.
//
//   h_k = w_k·ξ_k/√n of a pattern with label σ; a unit is wrong where σh_k ≤ 0, a majority where more than (K − 1)/2
//   units are; a parity machine where σ∏ sgn h_k ≠ 1.
//
// least action    on an error the fewest units that repair it move, those whose fields are the smallest:
//                 majority: t = #{σh_k ≤ 0} − (K − 1)/2 of the wrong ones, w_k += σξ_k/√n
//                 parity:   the unit of smallest |h_k|, w_k −= sgn(h_k)ξ_k/√n
//                 Binary machines do so with odd hidden integers, H_k += ±2ξ_k, w = sgn H.
// margin          (K + 1)/2 units are to be robust, σh_k > δ; where fewer are, wrong or not, the missing ones of
// largest
//                 σh_k land on the margin: w_k += (δ − σh_k) σξ_k/√n. Continuous majorities.
// perturbed       −log P(majority right | w_k + δz_k), z normal, descends with step η: with a_k = σh_k/δ,
//                 w_k += (η/δ) · φ(a_k) P(the other units are one short) / P(enough) · σξ_k/√n. Continuous majorities.
// replicas        y binary machines with hidden reals H; each adds least action's 2σξ_k of a batch, taken at fixed
//                 weights; then H += λ[tanh(γ y W̄) − W], W̄ the mean of the replicas' W = sgn H.
//
// Equal fields: the unit of lower number first. A field of zero counts as positive where its sign is asked for.
//
// Layout: rows (P, S, C) of words, one pattern after another (`rows` of core/wfm/patterns.hpp).
// cost    a pattern: K·n signed additions (continuous), K·n/64 counted words (binary); n more for each unit that moves
// source  least action and replicas: Baldassi, BinaryCommitteeMachineRSGD.jl; margin and perturbed: this project's own,
//         in the place of entropic least action, docs/wide-flat-minima.md
#pragma once

#include <cstdint>
#include <vector>

#include "core/run_control.hpp"
#include "core/views.hpp"
#include "core/wfm/patterns.hpp"

namespace flatcore::wfm {

// Labelled patterns, one after another, and the machine's shape.
struct OnlinePatterns : PatternLayout {
    const std::uint32_t* rows = nullptr;
    const std::int8_t* labels = nullptr;
    Index units = 1;
    bool parity = false;

    const std::uint32_t* row(Index mu, Index unit) const {
        return rows + (mu * segments + (segments == 1 ? 0 : unit)) * words();
    }
};

// Some patterns, by number, in the order in which they are learned.
struct Order {
    const std::int64_t* patterns = nullptr;
    Index count = 0;
};

// All epochs return the number of patterns that asked for a step. w, H: K × n row-major, changed in place.
Index least_action_epoch(const OnlinePatterns& data, Order order, std::int32_t* H, RunControl& control);
Index least_action_epoch(const OnlinePatterns& data, Order order, double* w, RunControl& control);
Index margin_epoch(const OnlinePatterns& data, Order order, double delta, double* w, RunControl& control);
Index perturbed_epoch(const OnlinePatterns& data, Order order, double delta, double step, double* w,
                      RunControl& control);

// H: y × K × n reals; orders: y permutations of the patterns. Replicas run on threads, batches at the same time.
struct ReplicaStep {
    Index replicas = 1, batch = 1;
    double lambda = 0.0, gamma = 0.0;
};
Index replicated_epoch(const OnlinePatterns& data, const std::int64_t* orders, const ReplicaStep& step, double* H,
                       RunControl& control);

// Errors of machines with real weights w (machines × K × n), for solutions of which only the signs of fields matter.
void count_errors(const Patterns& patterns, const std::int8_t* labels, bool parity, Index units, Index machines,
                  const double* w, std::int64_t* errors, RunControl& control);

// Continuous weights and hidden integers of one machine, padded to whole words as the kernels want them.
class ContinuousUnits {
 public:
    ContinuousUnits(const OnlinePatterns& data, const double* w);
    void fields(Index mu, double* h) const;    // Σ_i ξ_i w_ki / √n
    void add(Index mu, Index unit, double c);  // w_k += c ξ_k / √n
    void write(double* w) const;
    void normalise();  // ‖w_k‖² = n
    double* unit(Index k) { return w_.data() + k * padded_; }
    Index padded() const { return padded_; }

 private:
    const OnlinePatterns& data_;
    Index padded_;
    double scale_;
    std::vector<double> w_;
};

class BinaryUnits {
 public:
    BinaryUnits(const OnlinePatterns& data, const std::int32_t* H);
    void fields(Index mu, double* h) const;       // Σ_i ξ_i sgn H_ki
    void add(Index mu, Index unit, double sign);  // H_k += 2 sign ξ_k
    void write(std::int32_t* H) const;

 private:
    const OnlinePatterns& data_;
    Index padded_;
    std::vector<std::int32_t> H_;
    std::vector<std::uint32_t> signs_;
};

}  // namespace flatcore::wfm
