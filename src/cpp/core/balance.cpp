#include "core/balance.hpp"

#include <cmath>

namespace flatcore {

std::vector<LayerBalance> layer_balance(const Chain& chain, RunControl& control) {
    std::vector<LayerBalance> out;
    for (Index j = 1; j < chain.depth(); ++j) {
        const Index d = chain.dim(j);
        Matrix<double> A(d, d), B(d, d);
        {
            const Matrix<double> above = chain.link<double>(j + 1);
            multiply<double>(1.0, above.view().transposed(), above.view(), 0.0, A.view(), control);
        }
        const Matrix<double> below = chain.link<double>(j);
        multiply<double>(1.0, below.view(), below.view().transposed(), 0.0, B.view(), control);
        if (const std::vector<double> b = chain.bias<double>(j); !b.empty()) {
            const Eigen::Map<const Eigen::VectorXd> bias(b.data(), d);
            B.view().eigen().noalias() += bias * bias.transpose();
        }
        const auto a = A.view().eigen(), c = B.view().eigen();
        LayerBalance balance;
        balance.gap = (a - c).norm();
        const double scale = std::hypot(a.norm(), c.norm());
        balance.relative = scale > 0.0 ? balance.gap / scale : 0.0;
        out.push_back(balance);
        control.checkpoint(static_cast<double>(j) / static_cast<double>(chain.depth()));
    }
    return out;
}

PartialNorms partial_norms(const Chain& chain, RunControl& control) {
    const Index depth = chain.depth();
    PartialNorms out;
    out.bottom.assign(static_cast<std::size_t>(depth + 1), 1.0);
    out.top.assign(static_cast<std::size_t>(depth + 1), 1.0);
    Matrix<double> product;
    for (Index j = 1; j <= depth; ++j) {
        Matrix<double> link = chain.link<double>(j);
        if (j == 1) {
            product = std::move(link);
        } else {
            Matrix<double> next(chain.dim(j), chain.dim(0));
            const Matrix<double>&left = link, &right = product;
            multiply<double>(1.0, left.view(), right.view(), 0.0, next.view(), control);
            product = std::move(next);
        }
        const Matrix<double>& current = product;
        out.bottom[static_cast<std::size_t>(j)] = spectral_norm<double>(current.view(), control);
    }
    out.top[0] = out.bottom.back();
    for (Index j = depth; j >= 2; --j) {
        Matrix<double> link = chain.link<double>(j);
        if (j == depth) {
            product = std::move(link);
        } else {
            Matrix<double> next(chain.dim(depth), chain.dim(j - 1));
            const Matrix<double>&left = product, &right = link;
            multiply<double>(1.0, left.view(), right.view(), 0.0, next.view(), control);
            product = std::move(next);
        }
        const Matrix<double>& current = product;
        out.top[static_cast<std::size_t>(j - 1)] = spectral_norm<double>(current.view(), control);
    }
    return out;
}

}  // namespace flatcore
