#include "core/wfm/node.hpp"

#include <algorithm>
#include <cmath>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace flatcore::wfm {

namespace {

constexpr double kFarOutside = -70.0;

constexpr double kLeastProbability = 1e-300;
constexpr double kRareLogZ = -575.0;                 // 1e-250
constexpr double kMostOdds = 1.1420073898156842e26;  // e^{60}

// While it lives, what is too small for full precision counts as zero: such numbers take a hundred times as long.
class FlushTiny {
 public:
#if defined(__SSE2__)
    FlushTiny() : kept_(_mm_getcsr()) { _mm_setcsr(kept_ | 0x8040u); }
    ~FlushTiny() { _mm_setcsr(kept_); }
    FlushTiny(const FlushTiny&) = delete;
    FlushTiny& operator=(const FlushTiny&) = delete;

 private:
    unsigned kept_;
#else
    FlushTiny() {}
#endif
};

Index scratch_of(Index units, Activation activation) {
    if (units == 1) return 0;
    return activation == Activation::majority ? simd::node_scratch(units) : 2 * units * OutputNode::kLanes;
}

}  // namespace

OutputNode::OutputNode(Index units, Activation activation)
    : units_(units),
      activation_(activation),
      z_(at(units, 0)),
      rise_(z_.size(), 0.5),
      fall_(rise_),
      plus_(z_.size(), 1.0),
      minus_(z_),
      slope_(z_),
      target_(at(1, 0), 1.0),
      log_z_(target_.size()),
      scratch_(static_cast<std::size_t>(scratch_of(units, activation))),
      rare_(activation == Activation::majority ? units : 1),
      log_rise_(static_cast<std::size_t>(units)),
      log_fall_(log_rise_),
      rare_plus_(log_rise_),
      rare_minus_(log_rise_) {}

void OutputNode::messages() {
    const simd::FunctionKernels& functions = simd::table().functions;
    const auto size = static_cast<Index>(z_.size());
    if (units_ == 1) {
        functions.log_ndtr(size, z_.data(), log_z_.data());
        return;
    }
    {
        const FlushTiny flush;
        functions.ndtr(size, z_.data(), rise_.data());
        for (std::size_t i = 0; i < z_.size(); ++i) fall_[i] = -z_[i];
        functions.ndtr(size, fall_.data(), fall_.data());
        all_lanes();
    }
    rare_lanes([&](std::size_t i, double& rise, double& fall) {
        rise = log_normal(z_[i]);
        fall = log_normal(-z_[i]);
    });
}

void OutputNode::messages_of_probabilities() {
    if (units_ == 1) {
        for (double& rise : rise_) rise = std::max(rise, kLeastProbability);
        simd::table().functions.log(kLanes, rise_.data(), log_z_.data());
        return;
    }
    {
        const FlushTiny flush;
        all_lanes();
    }
    rare_lanes([&](std::size_t i, double& rise, double& fall) {
        rise = std::log(std::max(rise_[i], kLeastProbability));
        fall = std::log(std::max(fall_[i], kLeastProbability));
    });
}

void OutputNode::all_lanes() {
    const simd::NodeKernels& kernels = simd::table().node;
    if (activation_ == Activation::majority) {
        kernels.majority(units_, rise_.data(), fall_.data(), plus_.data(), minus_.data(), log_z_.data(),
                         scratch_.data());
        return;
    }
    for (std::size_t i = 0; i < rise_.size(); ++i) {
        rise_[i] = std::max(rise_[i], kLeastProbability);
        fall_[i] = std::max(fall_[i], kLeastProbability);
    }
    kernels.parity(units_, rise_.data(), fall_.data(), target_.data(), plus_.data(), minus_.data(), log_z_.data(),
                   scratch_.data());
}

// logarithms(i, log r, log f) of entry i.
template <class Logarithms>
void OutputNode::rare_lanes(const Logarithms& logarithms) {
    if (activation_ != Activation::majority) return;
    for (Index lane = 0; lane < kLanes; ++lane) {
        if (log_z_[at(0, lane)] >= kRareLogZ) continue;
        for (Index k = 0; k < units_; ++k) {
            const auto unit = static_cast<std::size_t>(k);
            logarithms(at(k, lane), log_rise_[unit], log_fall_[unit]);
        }
        log_z_[at(0, lane)] = rare_.messages(log_rise_.data(), log_fall_.data(), rare_plus_.data(), rare_minus_.data());
        for (Index k = 0; k < units_; ++k) {
            const auto unit = static_cast<std::size_t>(k);
            const double odds = std::clamp(rare_plus_[unit] / rare_minus_[unit], 1.0 / kMostOdds, kMostOdds);
            plus_[at(k, lane)] = odds / (1.0 + odds);
            minus_[at(k, lane)] = 1.0 / (1.0 + odds);
        }
    }
}

void OutputNode::slopes() {
    simd::table().node.slope(static_cast<Index>(z_.size()), units_ == 1, z_.data(), plus_.data(), minus_.data(),
                             slope_.data());
}

// For one unit the product cancels as z²·eps where z → −∞: there it is a series in u = 1/z², the next term 518u⁴.
double OutputNode::bend(Index k, Index lane) const {
    const double g = slope(k, lane), field = z_[at(k, lane)];
    if (units_ > 1 || field > kFarOutside) return g * (g + field);
    const double u = 1.0 / (field * field);
    return 1.0 - u * (1.0 - u * (6.0 - u * 50.0));
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

}  // namespace flatcore::wfm
