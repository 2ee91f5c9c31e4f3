#include "core/wfm/node.hpp"

#include <algorithm>
#include <cmath>

#include "core/simd/simd.hpp"
#include "core/wfm/normal.hpp"

namespace flatcore::wfm {

namespace {

constexpr double kMostLogOdds = 60.0;

// Normalises p₊ : p₋ with the odds within e^{±60}.
void normalise(double& plus, double& minus) {
    static const double least = std::exp(-kMostLogOdds);
    plus = std::max(plus, minus * least);
    minus = std::max(minus, plus * least);
    const double total = plus + minus;
    plus /= total;
    minus /= total;
}

}  // namespace

UnitResponse unit_response(double omega, double V, double plus, double minus) {
    const double over = 1.0 / std::sqrt(V), z = omega * over;
    const double slope =
        minus == 0.0 ? inverse_mills(z)
                     : kInverseSqrt2Pi * std::exp(-0.5 * z * z) * (plus - minus) / (plus * ndtr(z) + minus * ndtr(-z));
    const double g = slope * over;
    return {g, g * (g + z * over)};
}

OutputNode::OutputNode(Index units, Activation activation)
    : units_(units),
      activation_(activation),
      floor_(std::exp(-std::min(kMostLogOdds, 1300.0 / static_cast<double>(units + 1)))) {
    const auto size = static_cast<std::size_t>(units), square = (size + 1) * (size + 1);
    tails_.resize(2 * ((size + 7) / 8 * 8));
    left_.resize(square);
    right_.resize(square);
}

double OutputNode::messages(const double* z, int target, double* plus, double* minus) {
    if (units_ == 1) {
        plus[0] = 1.0;
        minus[0] = 0.0;
        return log_ndtr(z[0]);
    }
    const Index half = static_cast<Index>(tails_.size()) / 2;
    for (Index k = 0; k < units_; ++k) {
        tails_[static_cast<std::size_t>(k)] = z[k];
        tails_[static_cast<std::size_t>(half + k)] = -z[k];
    }
    simd::table().functions.ndtr(2 * half, tails_.data(), tails_.data());
    for (double& tail : tails_) tail = std::max(tail, floor_);
    return messages_of(tails_.data(), tails_.data() + half, target, plus, minus);
}

double OutputNode::messages_of(const double* rise, const double* fall, int target, double* plus, double* minus) {
    if (units_ == 1) {
        plus[0] = 1.0;
        minus[0] = 0.0;
        return std::log(rise[0]);
    }
    rise_ = rise;
    fall_ = fall;
    return activation_ == Activation::majority ? majority(plus, minus) : parity(target, plus, minus);
}

void majority_tails(Index count, const double* rise, const double* fall, double* left, double* right, double* enough,
                    double* more) {
    // left[k][c]: c of 0 … k − 1 are positive. right[k][c]: at least c of k … count − 1 are.
    const Index row = count + 1, half = (count - 1) / 2;
    left[0] = 1.0;
    for (Index k = 0; k < count; ++k) {
        const double* const before = left + k * row;
        double* const after = left + (k + 1) * row;
        after[0] = before[0] * fall[k];
        for (Index c = 1; c <= k; ++c) after[c] = before[c] * fall[k] + before[c - 1] * rise[k];
        after[k + 1] = before[k] * rise[k];
    }
    std::fill_n(right + count * row, row, 0.0);
    right[count * row] = 1.0;
    for (Index k = count - 1; k > 0; --k) {
        const double* const before = right + (k + 1) * row;
        double* const after = right + k * row;
        after[0] = 1.0;
        for (Index c = 1; c <= half + 1; ++c) after[c] = before[c] * fall[k] + before[c - 1] * rise[k];
    }
    for (Index k = 0; k < count; ++k) {
        const double* const tail = right + (k + 1) * row;
        enough[k] = more[k] = 0.0;
        for (Index c = 0; c <= k; ++c) {
            enough[k] += left[k * row + c] * tail[std::max<Index>(0, half - c)];
            more[k] += left[k * row + c] * tail[std::max<Index>(0, half + 1 - c)];
        }
    }
}

double OutputNode::majority(double* plus, double* minus) {
    majority_tails(units_, rise_, fall_, left_.data(), right_.data(), plus, minus);
    const Index last = units_ - 1;
    const double partition = plus[last] * rise_[last] + minus[last] * fall_[last];
    for (Index k = 0; k < units_; ++k) normalise(plus[k], minus[k]);
    return std::log(partition);
}

double OutputNode::parity(int target, double* plus, double* minus) {
    // left_[2k], left_[2k + 1]: the product of the units 0 … k − 1 is +, −. right_: of k … K − 1.
    const Index K = units_;
    double* const left = left_.data();
    double* const right = right_.data();
    const auto join = [](const double* a, double p, double m, double* out) {
        out[0] = a[0] * p + a[1] * m;
        out[1] = a[0] * m + a[1] * p;
    };
    left[0] = right[2 * K] = 1.0;
    left[1] = right[2 * K + 1] = 0.0;
    for (Index k = 0; k < K; ++k) {
        join(left + 2 * k, rise_[k], fall_[k], left + 2 * (k + 1));
        join(right + 2 * (K - k), rise_[K - 1 - k], fall_[K - 1 - k], right + 2 * (K - 1 - k));
    }
    double partition = 0.0;
    for (Index k = 0; k < K; ++k) {
        double others[2];
        join(left + 2 * k, right[2 * (k + 1)], right[2 * (k + 1) + 1], others);
        plus[k] = others[target > 0 ? 0 : 1];
        minus[k] = others[target > 0 ? 1 : 0];
        partition = plus[k] * rise_[k] + minus[k] * fall_[k];
        normalise(plus[k], minus[k]);
    }
    return std::log(partition);
}

}  // namespace flatcore::wfm
