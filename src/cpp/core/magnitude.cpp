#include "core/magnitude.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/simd.hpp"

namespace flatcore {

namespace {

constexpr Index kPiece = Index{1} << 16;        // entries of a sum
constexpr Index kBetweenCheckpoints = 1 << 12;  // pieces
constexpr double kLargestF16 = 65504.0;

// Whether an entry is NaN or infinite, though that may be seen from the sums alone: float64's squares overflow too.
bool has_nonfinite(Scalar scalar, const Magnitude& sums, const void* row, Index n) {
    if (scalar == Scalar::f16 && sums.largest > kLargestF16) return true;
    if (std::isfinite(sums.squares)) return false;
    if (scalar != Scalar::f64) return true;
    const double* x = static_cast<const double*>(row);
    return std::any_of(x, x + n, [](double a) { return !std::isfinite(a); });
}

// Rows with unit stride; contiguous ones as a single row.
StoredMatrix as_rows(const StoredMatrix& A) {
    StoredMatrix rows = A.col_stride == 1 ? A : A.transposed();
    require(rows.col_stride == 1 || rows.cols <= 1, "the largest modulus needs a view with one unit stride");
    if (rows.row_stride == rows.cols) {
        rows.cols *= rows.rows;
        rows.rows = std::min<Index>(1, rows.rows);
    }
    return rows;
}

void add(Magnitude& sum, const Magnitude& next) {
    sum.largest = std::isnan(next.largest) ? next.largest : std::max(sum.largest, next.largest);
    sum.squares += next.squares;
}

}  // namespace

Magnitude magnitude(const StoredMatrix& A, RunControl& control) {
    const StoredMatrix W = as_rows(A);
    const Index cuts = std::max<Index>(1, (W.cols + kPiece - 1) / kPiece);        // pieces of a row,
    const Index group = std::max<Index>(1, kPiece / std::max<Index>(1, W.cols));  // or rows of a piece
    const Index pieces = (W.rows + group - 1) / group * cuts;
    const auto piece = [&](Index p) {
        const Index first = p % cuts * kPiece, n = std::min(kPiece, W.cols - first);
        Magnitude sum{0.0, 0.0};
        for (Index r = p / cuts * group; r < std::min(W.rows, (p / cuts + 1) * group); ++r) {
            const void* row = static_cast<const char*>(W.data) +
                              static_cast<std::size_t>(r * W.row_stride + first) * size_of(W.scalar);
            Magnitude next = simd::table().magnitude.stored(W.scalar, n, row);
            if (has_nonfinite(W.scalar, next, row, n)) next.largest = std::numeric_limits<double>::quiet_NaN();
            if (!std::isnan(sum.largest)) add(sum, next);
        }
        return sum;
    };
    Magnitude total{0.0, 0.0};
    for (Index done = 0; done < pieces && !std::isnan(total.largest); done += kBetweenCheckpoints) {
        const Index count = std::min(kBetweenCheckpoints, pieces - done);
        std::vector<Magnitude> sums(static_cast<std::size_t>(count));
        parallel_ranges(count, 1, [&](Index begin, Index end) {
            for (Index p = begin; p < end; ++p) sums[static_cast<std::size_t>(p)] = piece(done + p);
        });
        for (const Magnitude& sum : sums)
            if (!std::isnan(total.largest)) add(total, sum);
        control.checkpoint();
    }
    return total;
}

}  // namespace flatcore
