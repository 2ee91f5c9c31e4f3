#include "core/coupling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/errors.hpp"

namespace flatcore {

template <class T>
void overlaps(ConstMatrixView<T> U, ConstMatrixView<T> Vt, MatrixView<double> out, RunControl& control) {
    require(U.rows == Vt.cols && out.rows == U.cols && out.cols == Vt.rows, "overlaps of ", U.rows, "x", U.cols,
            " and ", Vt.rows, "x", Vt.cols);
    Matrix<T> product(U.cols, Vt.rows);
    multiply<T>(T(1), U.transposed(), Vt.transposed(), T(0), product.view(), control);
    out.eigen() = product.view().eigen().template cast<double>().cwiseAbs();
}

template void overlaps<float>(ConstMatrixView<float>, ConstMatrixView<float>, MatrixView<double>, RunControl&);
template void overlaps<double>(ConstMatrixView<double>, ConstMatrixView<double>, MatrixView<double>, RunControl&);

namespace {
constexpr double kNever = -std::numeric_limits<double>::infinity();
double log_or_never(double x) { return x > 0.0 ? std::log(x) : kNever; }
}  // namespace

Path strongest_path(const std::vector<std::vector<double>>& sigma,
                    const std::vector<ConstMatrixView<double>>& pair_overlaps) {
    require(!sigma.empty() && pair_overlaps.size() + 1 == sigma.size(), "a path through ", sigma.size(),
            " layers needs one overlap matrix less, got ", pair_overlaps.size());
    std::vector<double> best;  // best log weight of a path that ends at value i of the current layer
    for (const double s : sigma.front()) best.push_back(log_or_never(s));
    std::vector<std::vector<Index>> came_from;
    for (std::size_t j = 1; j < sigma.size(); ++j) {
        const auto& pair = pair_overlaps[j - 1];
        require(pair.rows == static_cast<Index>(best.size()) && pair.cols == static_cast<Index>(sigma[j].size()),
                "overlap matrix ", j, " is ", pair.rows, "x", pair.cols);
        std::vector<double> next(sigma[j].size(), kNever);
        std::vector<Index> from(sigma[j].size(), 0);
        for (std::size_t b = 0; b < next.size(); ++b) {
            for (std::size_t a = 0; a < best.size(); ++a) {
                const double weight = best[a] + log_or_never(pair(static_cast<Index>(a), static_cast<Index>(b)));
                if (weight > next[b]) {
                    next[b] = weight;
                    from[b] = static_cast<Index>(a);
                }
            }
            next[b] += log_or_never(sigma[j][b]);
        }
        came_from.push_back(std::move(from));
        best = std::move(next);
    }
    const auto top = std::max_element(best.begin(), best.end());
    if (top == best.end() || *top == kNever) return {};
    Path path;
    path.log_strength = *top;
    path.indices.push_back(top - best.begin());
    for (auto step = came_from.rbegin(); step != came_from.rend(); ++step)
        path.indices.push_back((*step)[static_cast<std::size_t>(path.indices.back())]);
    std::reverse(path.indices.begin(), path.indices.end());
    return path;
}

}  // namespace flatcore
