#include "core/wfm/node.hpp"

#include <algorithm>
#include <cmath>

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

OutputNode::OutputNode(Index units, Activation activation)
    : units_(units),
      activation_(activation),
      floor_(std::exp(-std::min(kMostLogOdds, 1300.0 / static_cast<double>(units + 1)))) {
    const auto size = static_cast<std::size_t>(units), square = (size + 1) * (size + 1);
    for (auto* row : {&rise_, &fall_, &plus_, &minus_}) row->resize(size);
    left_.resize(square);
    right_.resize(square);
}

double OutputNode::messages(const double* z, int target, double* plus, double* minus) {
    if (units_ == 1) {
        plus[0] = 1.0;
        minus[0] = 0.0;
        return log_ndtr(z[0]);
    }
    for (Index k = 0; k < units_; ++k) {
        const auto at = static_cast<std::size_t>(k);
        rise_[at] = std::max(ndtr(z[k]), floor_);
        fall_[at] = std::max(ndtr(-z[k]), floor_);
    }
    return activation_ == Activation::majority ? majority(plus, minus) : parity(target, plus, minus);
}

double OutputNode::majority(double* plus, double* minus) {
    // left_[k][c]: c of the units 0 … k − 1 are positive. right_[k][c]: at least c of k … K − 1 are.
    const Index K = units_, row = K + 1, half = (K - 1) / 2;
    double* const left = left_.data();
    double* const right = right_.data();
    left[0] = 1.0;
    for (Index k = 0; k < K; ++k) {
        const double r = rise_[static_cast<std::size_t>(k)], f = fall_[static_cast<std::size_t>(k)];
        const double* const before = left + k * row;
        double* const after = left + (k + 1) * row;
        after[0] = before[0] * f;
        for (Index c = 1; c <= k; ++c) after[c] = before[c] * f + before[c - 1] * r;
        after[k + 1] = before[k] * r;
    }
    std::fill_n(right + K * row, row, 0.0);
    right[K * row] = 1.0;
    for (Index k = K - 1; k > 0; --k) {
        const double r = rise_[static_cast<std::size_t>(k)], f = fall_[static_cast<std::size_t>(k)];
        const double* const before = right + (k + 1) * row;
        double* const after = right + k * row;
        after[0] = 1.0;
        for (Index c = 1; c <= half + 1; ++c) after[c] = before[c] * f + before[c - 1] * r;
    }
    double partition = 0.0;
    for (Index k = 0; k < K; ++k) {
        double enough = 0.0, more = 0.0;  // of the others, at least half, half + 1
        for (Index c = 0; c <= k; ++c) {
            const double* const tail = right + (k + 1) * row;
            enough += left[k * row + c] * tail[std::max<Index>(0, half - c)];
            more += left[k * row + c] * tail[std::max<Index>(0, half + 1 - c)];
        }
        const auto at = static_cast<std::size_t>(k);
        partition = enough * rise_[at] + more * fall_[at];
        plus[k] = enough;
        minus[k] = more;
        normalise(plus[k], minus[k]);
    }
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
        const auto up = static_cast<std::size_t>(k), down = static_cast<std::size_t>(K - 1 - k);
        join(left + 2 * k, rise_[up], fall_[up], left + 2 * (k + 1));
        join(right + 2 * (K - k), rise_[down], fall_[down], right + 2 * (K - 1 - k));
    }
    double partition = 0.0;
    for (Index k = 0; k < K; ++k) {
        double others[2];
        join(left + 2 * k, right[2 * (k + 1)], right[2 * (k + 1) + 1], others);
        plus[k] = others[target > 0 ? 0 : 1];
        minus[k] = others[target > 0 ? 1 : 0];
        const auto at = static_cast<std::size_t>(k);
        partition = plus[k] * rise_[at] + minus[k] * fall_[at];
        normalise(plus[k], minus[k]);
    }
    return std::log(partition);
}

}  // namespace flatcore::wfm
