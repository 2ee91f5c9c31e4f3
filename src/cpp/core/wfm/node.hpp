// The output node of a committee: what the target says of each unit's sign, given the fields of the others.
//
//   Unit k is positive with probability r_k = Φ(z_k), z_k = ω_k/√V_k, negative with f_k = Φ(−z_k). The message to unit k,
//   p₊ : p₋ = P(output = target | τ_k = +, others) : P(output = target | τ_k = −, others),
//   normalised to p₊ + p₋ = 1, so that B_k = ½ log(p₊/p₋); and Z = p₊ r_k + p₋ f_k before the normalisation.
//
//   majority, target +: with c the number of positive units among the other K − 1,
//                       p₊ : p₋ = P(c >= (K−1)/2) : P(c >= (K+1)/2), the law of c from those of the units to the left
//                       and to the right
//   parity, target σ:   p₊ : p₋ = P(∏_{l≠k} τ_l = σ) : P(∏_{l≠k} τ_l = −σ)
//   K = 1:              p₊ = 1, p₋ = 0
//
// Only sums of products of probabilities: nothing cancels. r_k and f_k are at least e^{−60} (e^{−1300/(K+1)} for K > 20,
// so that products of them are normal numbers) and |B_k| is at most 30.
//
// cost    O(K²) a pattern (majority), O(K) (parity), and two erfc a unit
// source  docs/wide-flat-minima.md
#pragma once

#include <vector>

#include "core/views.hpp"

namespace flatcore::wfm {

enum class Activation { majority, parity };

// Scratch of one thread.
class OutputNode {
 public:
    OutputNode(Index units, Activation activation);

    // z: K fields. Writes K messages and returns log Z.
    double messages(const double* z, int target, double* plus, double* minus);
    // log Z alone.
    double log_partition(const double* z, int target) { return messages(z, target, plus_.data(), minus_.data()); }

 private:
    double majority(double* plus, double* minus);
    double parity(int target, double* plus, double* minus);

    Index units_;
    Activation activation_;
    double floor_;
    std::vector<double> rise_, fall_, left_, right_, plus_, minus_;
};

}  // namespace flatcore::wfm
