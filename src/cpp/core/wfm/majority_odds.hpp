// Derivatives of the log-probability that a majority of independent units is right.
//
//   p_k = Φ(a_k), P = P(at least m = (K + 1)/2 units are right)
//   ∂ log P/∂a_k = φ(a_k) Q_k / P,   Q_k = P(exactly m − 1 of the others are right)
//                = [φ(a_k)/Φ(a_k)] · [p_k Q_k / P]
//
// The second factor is a probability (unit k is right and decides, given that enough are). It does not change where all
// log-odds ℓ_k = log p_k/(1 − p_k) are raised by θ and the counts j above m weighted by e^{−θ(j − m)}; θ = max(0, −ℓ),
// ℓ the m-th largest, makes the count m likely, and no sum underflows however small P is. The first factor is
// the inverse Mills ratio, about −a for a → −∞ and 0 for a → ∞.
//
// cost  2K error functions and about 3K² multiplications
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/views.hpp"

namespace flatcore::wfm {

// φ(a)/Φ(a). Below −30 by the asymptotic series of the Mills ratio, whose first term left out is 10395/a¹² < 2e-14.
inline double inverse_mills(double a) {
    if (a < -30.0) {
        const double r = 1.0 / (a * a);
        return -a / (1.0 + r * (-1.0 + r * (3.0 + r * (-15.0 + r * (105.0 - r * 945.0)))));
    }
    constexpr double root_two_over_pi = 0.79788456080286535588;
    return root_two_over_pi * std::exp(-0.5 * a * a) / std::erfc(-a * 0.70710678118654752440);
}

// log Φ(a).
inline double log_normal(double a) {
    constexpr double log_root_two_pi = 0.91893853320467274178;
    if (a < -30.0) return -0.5 * a * a - log_root_two_pi - std::log(inverse_mills(a));
    if (a > 5.0) return std::log1p(-0.5 * std::erfc(a * 0.70710678118654752440));
    return std::log(0.5 * std::erfc(-a * 0.70710678118654752440));
}

class MajorityOdds {
 public:
    explicit MajorityOdds(Index units)
        : units_(units),
          enough_((units + 1) / 2),
          odds_(size(units)),
          p_(size(units)),
          q_(size(units)),
          left_(size((units + 1) * (units + 1))),
          right_(size(units + 1)),
          next_(size(units + 1)) {}

    // ∂ log P/∂a_k for all k; finite for all finite a.
    void log_slopes(const double* a, double* slopes) {
        const double theta = tilted(a);
        prefixes();
        const double* const all = left_.data() + units_ * (units_ + 1);
        double P = 0.0;
        for (Index j = units_; j >= enough_; --j) P += all[j] * std::exp(-theta * static_cast<double>(j - enough_));
        std::fill(right_.begin(), right_.end(), 0.0);
        right_[0] = 1.0;  // the counts of the units behind k
        for (Index k = units_ - 1; k >= 0; --k) {
            const double* const before = left_.data() + k * (units_ + 1);
            double Q = 0.0;
            for (Index j = 0; j < enough_; ++j) Q += before[j] * right_[size(enough_ - 1 - j)];
            slopes[k] = inverse_mills(a[k]) * p_[size(k)] * Q / P;
            counted(right_.data(), k, next_.data());
            right_.swap(next_);
        }
    }

 private:
    static std::size_t size(Index n) { return static_cast<std::size_t>(n); }

    // p_k, q_k = 1 − p_k with raised log-odds; θ.
    double tilted(const double* a) {
        for (Index k = 0; k < units_; ++k) p_[size(k)] = odds_[size(k)] = log_normal(a[k]) - log_normal(-a[k]);
        std::nth_element(p_.begin(), p_.begin() + (enough_ - 1), p_.end(), [](double x, double y) { return x > y; });
        const double theta = std::max(0.0, -p_[size(enough_ - 1)]);
        for (Index k = 0; k < units_; ++k) {
            const double odds = odds_[size(k)] + theta;
            p_[size(k)] = 1.0 / (1.0 + std::exp(-odds));
            q_[size(k)] = 1.0 / (1.0 + std::exp(odds));
        }
        return theta;
    }

    // out: the law of the count with unit k added.
    void counted(const double* law, Index k, double* out) const {
        const double p = p_[size(k)], q = q_[size(k)];
        out[0] = q * law[0];
        for (Index j = 1; j <= units_; ++j) out[j] = q * law[j] + p * law[j - 1];
    }

    // Row k of left_: the law of the count of units 0 … k − 1.
    void prefixes() {
        std::fill_n(left_.data(), units_ + 1, 0.0);
        left_[0] = 1.0;
        for (Index k = 0; k < units_; ++k) {
            double* const row = left_.data() + k * (units_ + 1);
            counted(row, k, row + units_ + 1);
        }
    }

    Index units_, enough_;
    std::vector<double> odds_, p_, q_, left_, right_, next_;
};

}  // namespace flatcore::wfm
