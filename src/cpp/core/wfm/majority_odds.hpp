// A majority of independent units where it is hardly ever right: the derivatives of its log-probability, and what it
// says of each unit.
//
//   p_k = Φ(a_k), P = P(at least m = (K + 1)/2 units are right)
//   ∂ log P/∂a_k = φ(a_k) Q_k / P,   Q_k = P(exactly m − 1 of the others are right)
//                = [φ(a_k)/Φ(a_k)] · [p_k Q_k / P]
//
// The second factor is a probability (unit k is right and decides, given that enough are). It does not change where all
// log-odds ℓ_k = log p_k/(1 − p_k) are raised by θ and the counts j above m weighted by e^{−θ(j − m)}; θ = max(0, −ℓ),
// ℓ the m-th largest, gives the count m, and m − 1 of the others, a probability of at least 2^{−K}: up to a thousand
// units no sum underflows however small P is. The first factor is the inverse Mills ratio, about −a for a → −∞ and 0
// for a → ∞.
//
// In the same way p₊ : p₋ = P(at least m − 1 of the others) : P(at least m of the others) is the ratio of the tilted
// Σ_{j ≥ m−1} e^{−θ(j−m+1)} P'(j) and Σ_{j ≥ m} e^{−θ(j−m+1)} P'(j), and P = Σ_{j ≥ m} e^{−θj} P'(j) ∏_k q_k/q'_k.
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
    if (a < -30.0) {
        a = std::max(a, -1e150);  // whose square is a number
        return -0.5 * a * a - log_root_two_pi - std::log(inverse_mills(a));
    }
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
          next_(size(units + 1)),
          weight_(size(units + 1)) {}

    // ∂ log P/∂a_k for all k; finite for all finite a, and right for |a| <= 1e150.
    void log_slopes(const double* a, double* slopes) {
        for (Index k = 0; k < units_; ++k) odds_[size(k)] = log_normal(a[k]) - log_normal(-a[k]);
        tilt();
        const double P = enough();
        last_unit();  // right_: the counts of the units behind k
        for (Index k = units_ - 1; k >= 0; --k) {
            const double* const before = law(k);
            double Q = 0.0;
            for (Index j = 0; j < enough_; ++j) Q += before[j] * right_[size(enough_ - 1 - j)];
            slopes[k] = inverse_mills(a[k]) * p_[size(k)] * Q / P;
            counted(right_.data(), k, next_.data());
            right_.swap(next_);
        }
    }

    // p₊ and p₋ of all units up to a factor for each, and log P, from log p_k and log(1 − p_k).
    double messages(const double* log_right, const double* log_wrong, double* plus, double* minus) {
        for (Index k = 0; k < units_; ++k) odds_[size(k)] = log_right[k] - log_wrong[k];
        tilt();
        const double log_P = std::log(enough()) + log_scale(log_right, log_wrong);
        last_unit();  // right_[c]: Σ e^{−θ(j−c)} P'(j) over counts j >= c of the units behind k
        for (Index k = units_ - 1; k >= 0; --k) {
            plus[k] = tail(k, enough_ - 1);
            minus[k] = weight_[1] * tail(k, enough_);
            counted(right_.data(), k, next_.data());
            next_[0] += p_[size(k)] * weight_[1] * right_[0];
            right_.swap(next_);
        }
        return log_P;
    }

 private:
    static std::size_t size(Index n) { return static_cast<std::size_t>(n); }

    // θ; p_k, q_k = 1 − p_k with raised log-odds; the laws of the counts of units 0 … k − 1; the weights e^{−θj}.
    void tilt() {
        p_ = odds_;
        std::nth_element(p_.begin(), p_.begin() + (enough_ - 1), p_.end(), [](double x, double y) { return x > y; });
        theta_ = std::max(0.0, -p_[size(enough_ - 1)]);
        for (Index k = 0; k < units_; ++k) {
            const double odds = odds_[size(k)] + theta_;
            p_[size(k)] = 1.0 / (1.0 + std::exp(-odds));
            q_[size(k)] = 1.0 / (1.0 + std::exp(odds));
        }
        weight_[0] = 1.0;
        const double step = std::exp(-theta_);
        for (Index j = 1; j <= units_; ++j) weight_[size(j)] = weight_[size(j - 1)] * step;
        prefixes();
    }

    // Σ_{j >= m} e^{−θ(j−m)} P'(j)
    double enough() const {
        double sum = 0.0;
        for (Index j = units_; j >= enough_; --j) sum += law(units_)[j] * weight_[size(j - enough_)];
        return sum;
    }

    // log of e^{−θm} ∏ q_k/q'_k, where q_k/q'_k = e^θ p_k/p'_k: of the two the factor that is near 1 after the tilt.
    double log_scale(const double* log_right, const double* log_wrong) const {
        double sum = 0.0;
        Index right = 0;
        for (Index k = 0; k < units_; ++k) {
            const double odds = odds_[size(k)] + theta_;
            right += odds > 0.0;
            sum += (odds > 0.0 ? log_right[k] : log_wrong[k]) + std::log1p(std::exp(-std::abs(odds)));
        }
        return sum + theta_ * static_cast<double>(right - enough_);
    }

    // Σ e^{−θ(j−least)} P'(j) over counts j >= least of all units but k.
    double tail(Index k, Index least) const {
        double sum = 0.0;
        for (Index c = 0; c <= k; ++c)
            sum += law(k)[c] * (c < least ? right_[size(least - c)] : right_[0] * weight_[size(c - least)]);
        return sum;
    }

    void last_unit() {
        std::fill(right_.begin(), right_.end(), 0.0);
        right_[0] = 1.0;
    }

    const double* law(Index k) const { return left_.data() + k * (units_ + 1); }

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
    double theta_ = 0.0;
    std::vector<double> odds_, p_, q_, left_, right_, next_, weight_;
};

}  // namespace flatcore::wfm
