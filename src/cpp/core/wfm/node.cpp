#include "core/wfm/node.hpp"

#include <algorithm>
#include <cmath>

namespace flatcore::wfm {

namespace {

constexpr double kMostLogOdds = 60.0;

}  // namespace

OutputNode::OutputNode(Index units, Activation activation)
    : units_(units),
      activation_(activation),
      floor_(std::exp(activation == Activation::parity
                          ? -kMostLogOdds
                          : -std::min(kMostLogOdds, 1300.0 / static_cast<double>(units + 1)))),
      z_(at(units, 0)),
      rise_(z_.size(), 0.5),
      fall_(rise_),
      plus_(z_.size(), 1.0),
      minus_(z_),
      slope_(z_),
      target_(at(1, 0), 1.0),
      log_z_(target_.size()),
      scratch_(units > 1 ? static_cast<std::size_t>(simd::node_scratch(units)) : 0) {}

void OutputNode::messages() {
    const simd::FunctionKernels& functions = simd::table().functions;
    const auto size = static_cast<Index>(z_.size());
    if (units_ == 1) {
        functions.log_ndtr(size, z_.data(), log_z_.data());
        return;
    }
    functions.ndtr(size, z_.data(), rise_.data());
    for (std::size_t i = 0; i < z_.size(); ++i) fall_[i] = -z_[i];
    functions.ndtr(size, fall_.data(), fall_.data());
    messages_of_probabilities();
}

void OutputNode::messages_of_probabilities() {
    for (std::size_t i = 0; i < rise_.size(); ++i) {
        rise_[i] = std::max(rise_[i], floor_);
        fall_[i] = std::max(fall_[i], floor_);
    }
    const simd::NodeKernels& kernels = simd::table().node;
    if (units_ == 1)
        simd::table().functions.log(kLanes, rise_.data(), log_z_.data());
    else if (activation_ == Activation::majority)
        kernels.majority(units_, rise_.data(), fall_.data(), plus_.data(), minus_.data(), log_z_.data(),
                         scratch_.data());
    else
        kernels.parity(units_, rise_.data(), fall_.data(), target_.data(), plus_.data(), minus_.data(), log_z_.data(),
                       scratch_.data());
}

void OutputNode::slopes() {
    simd::table().node.slope(static_cast<Index>(z_.size()), units_ == 1, z_.data(), plus_.data(), minus_.data(),
                             slope_.data());
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
