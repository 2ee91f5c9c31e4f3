// The output node of a committee: what the target says of each unit's sign, given the fields of the others.
//
//   Unit k is positive with probability r_k = Φ(z_k), z_k = ω_k/√V_k, negative with f_k = Φ(−z_k). The message to unit
//   k, p₊ : p₋ = P(output = target | τ_k = +, others) : P(output = target | τ_k = −, others), normalised to p₊ + p₋ =
//   1, so that B_k = ½ log(p₊/p₋); and Z = p₊ r_k + p₋ f_k before the normalisation.
//
//   majority, target +: with c the number of positive units among the other K − 1,
//                       p₊ : p₋ = P(c >= (K−1)/2) : P(c >= (K+1)/2), the law of c from those of the units to the left
//                       and to the right
//   parity, target σ:   p₊ : p₋ = P(∏_{l≠k} τ_l = σ) : P(∏_{l≠k} τ_l = −σ)
//   K = 1:              p₊ = 1, p₋ = 0
//
// Only sums of products of probabilities: nothing cancels. |B_k| is at most 30.
//
// Eight patterns go side by side, on the vectors of core/simd/node.hpp. What underflows there is lost, at most 1e-290
// of any probability. A majority whose Z is below 1e-250 is therefore computed again, with tilted probabilities
// (core/wfm/majority_odds.hpp) from log r_k and log f_k. For parity, where Z may be as small as the smallest of r_k and
// f_k but no smaller, these are at least 1e-300.
//
// cost    O(K²) a pattern (majority), O(K) (parity), and two tails a unit; 128 (K + 1)² bytes a thread (majority)
// source  docs/wide-flat-minima.md
#pragma once

#include <vector>

#include "core/simd/simd.hpp"
#include "core/views.hpp"
#include "core/wfm/majority_odds.hpp"

namespace flatcore::wfm {

enum class Activation { majority, parity };

// Of independent signs, positive with probability r_k, else f_k, an odd number of them: for each, the probabilities
// that at least half, and more than half, of the others are positive. left, right: scratch of (count + 1)² entries.
void majority_tails(Index count, const double* rise, const double* fall, double* left, double* right, double* enough,
                    double* more);

// The node of up to eight patterns, with its memory: for one thread.
class OutputNode {
 public:
    static constexpr Index kLanes = simd::kNodeLanes;

    OutputNode(Index units, Activation activation);

    // In: fields z of the units, or the probabilities of their signs; targets where the activation is parity.
    double& z(Index k, Index lane) { return z_[at(k, lane)]; }
    double& rise(Index k, Index lane) { return rise_[at(k, lane)]; }
    double& fall(Index k, Index lane) { return fall_[at(k, lane)]; }
    void set_target(Index lane, int target) { target_[at(0, lane)] = target; }

    void messages();                   // from z
    void messages_of_probabilities();  // from rise and fall
    void slopes();                     // φ(z)(p₊ − p₋)/Z, after messages()

    double plus(Index k, Index lane) const { return plus_[at(k, lane)]; }
    double minus(Index k, Index lane) const { return minus_[at(k, lane)]; }
    double slope(Index k, Index lane) const { return slope_[at(k, lane)]; }
    double bend(Index k, Index lane) const;  // slope·(slope + z): Γ times the variance of the field
    double log_partition(Index lane) const { return log_z_[at(0, lane)]; }

 private:
    static std::size_t at(Index k, Index lane) { return static_cast<std::size_t>(k * kLanes + lane); }

    void all_lanes();  // from rise and fall
    template <class Logarithms>
    void rare_lanes(const Logarithms& logarithms);

    Index units_;
    Activation activation_;
    std::vector<double> z_, rise_, fall_, plus_, minus_, slope_, target_, log_z_, scratch_;
    MajorityOdds rare_;
    std::vector<double> log_rise_, log_fall_, rare_plus_, rare_minus_;
};

}  // namespace flatcore::wfm
