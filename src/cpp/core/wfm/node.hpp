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
// Only sums of products of probabilities: nothing cancels. r_k and f_k are at least e^{−60} (e^{−1300/(K+1)} for K >
// 20, so that products of them are normal numbers) and |B_k| is at most 30.
//
// cost    O(K²) a pattern (majority), O(K) (parity), and two tails a unit
// source  docs/wide-flat-minima.md
#pragma once

#include <vector>

#include "core/views.hpp"

namespace flatcore::wfm {

enum class Activation { majority, parity };

// What the fields ω of a unit learn from p₊ and p₋: Z = p₊Φ(z) + p₋Φ(−z), z = ω/√V.
struct UnitResponse {
    double g;      // ∂ log Z/∂ω = φ(z)(p₊ − p₋)/(√V Z)
    double gamma;  // −∂g/∂ω = g² + z g/√V
};

UnitResponse unit_response(double omega, double V, double plus, double minus);

// Of independent signs, positive with probability r_k, else f_k, an odd number of them: for each, the probabilities
// that at least half, and more than half, of the others are positive. left, right: scratch of (count + 1)² entries.
void majority_tails(Index count, const double* rise, const double* fall, double* left, double* right, double* enough,
                    double* more);

// Scratch of one thread.
class OutputNode {
 public:
    OutputNode(Index units, Activation activation);

    // z: K fields. Writes K messages and returns log Z.
    double messages(const double* z, int target, double* plus, double* minus);
    // The same from probabilities of the units' signs, r and f, at least the floor (K = 1: log Z = log r).
    double messages_of(const double* rise, const double* fall, int target, double* plus, double* minus);
    double floor() const { return floor_; }

 private:
    double majority(double* plus, double* minus);
    double parity(int target, double* plus, double* minus);

    Index units_;
    Activation activation_;
    double floor_;
    const double *rise_ = nullptr, *fall_ = nullptr;
    std::vector<double> tails_, left_, right_;
};

}  // namespace flatcore::wfm
