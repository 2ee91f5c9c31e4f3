#include "core/gains.hpp"

#include <limits>

#include "core/errors.hpp"

namespace flatcore {

namespace {
AffineRows<double> single_row(const Eigen::VectorXd& z) {
    AffineRows<double> row(1, z.size(), false);
    row.body.view().eigen().row(0) = z.transpose();
    return row;
}
}  // namespace

GainProfile gain_profile(const Chain& chain, const std::vector<double>& v, RunControl& control) {
    require(static_cast<Index>(v.size()) == chain.dim(0), "the start vector has ", v.size(), " entries, expected ",
            chain.dim(0));
    // The weights alone: a chain without its biases.
    std::vector<Layer> layers;
    for (Index j = 1; j <= chain.depth(); ++j) layers.push_back({chain.layer(j).weight, nullptr, chain.layer(j).skip});
    const Chain linear(std::move(layers));

    constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
    const auto depth = static_cast<std::size_t>(linear.depth());
    GainProfile out{std::vector<double>(depth, undefined), std::vector<double>(depth, undefined)};
    Eigen::VectorXd z = Eigen::Map<const Eigen::VectorXd>(v.data(), static_cast<Index>(v.size()));
    for (Index j = 1; j <= linear.depth(); ++j) {
        const AffineRows<double> image = move_up(linear, j, single_row(z), control);
        Eigen::VectorXd next = image.body.view().eigen().row(0).transpose();
        const double gain = next.stableNorm();
        out.gains[static_cast<std::size_t>(j - 1)] = gain;
        if (!(gain > 0.0)) return out;
        next /= gain;
        const AffineRows<double> back = move_down(linear, j, single_row(next), control);
        const Eigen::VectorXd returned = back.body.view().eigen().row(0).transpose();
        out.residuals[static_cast<std::size_t>(j - 1)] = (returned - gain * z).stableNorm() / gain;
        z = next;
    }
    return out;
}

}  // namespace flatcore
