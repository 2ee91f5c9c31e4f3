// The skinny kernels of every instruction set against sums in long double, over sizes that leave tails everywhere.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/simd/tables.hpp"
#include "core/skinny.hpp"
#include "helpers.hpp"

using namespace flatcore;

namespace {

template <class T>
const simd::SkinnyKernels<T>& kernels_of(const simd::Table& table);
template <>
const simd::SkinnyKernels<float>& kernels_of(const simd::Table& table) {
    return table.skinny32;
}
template <>
const simd::SkinnyKernels<double>& kernels_of(const simd::Table& table) {
    return table.skinny64;
}

// Random entries that every precision stores exactly: k / 8 with |k| <= 32, times a power of two.
template <class T>
std::vector<T> entries(Index count, unsigned seed) {
    std::mt19937 engine(seed);
    std::uniform_int_distribution<int> digits(-32, 32), power(-6, 2);
    std::vector<T> out(static_cast<std::size_t>(count));
    for (T& value : out) value = static_cast<T>(std::ldexp(digits(engine) / 8.0, power(engine)));
    return out;
}

// A matrix stored as `scalar`, and its values.
struct Stored {
    std::vector<char> bytes;
    std::vector<double> values;

    Stored(Scalar scalar, Index count, unsigned seed) : values(entries<double>(count, seed)) {
        bytes.resize(static_cast<std::size_t>(count) * size_of(scalar));
        for (Index i = 0; i < count; ++i) {
            const auto at = static_cast<std::size_t>(i);
            if (scalar == Scalar::f64) reinterpret_cast<double*>(bytes.data())[i] = values[at];
            if (scalar == Scalar::f32) reinterpret_cast<float*>(bytes.data())[i] = static_cast<float>(values[at]);
            if (scalar == Scalar::f16)
                reinterpret_cast<Eigen::half*>(bytes.data())[i] = static_cast<Eigen::half>(values[at]);
            if (scalar == Scalar::bf16)
                reinterpret_cast<Eigen::bfloat16*>(bytes.data())[i] = static_cast<Eigen::bfloat16>(values[at]);
        }
    }
};

// Each output is a sum of `terms` products of size at most 256: rounding errors of at most terms·eps of their sum.
template <class T>
bool close(double got, double expected, double magnitude, Index terms) {
    const double eps = std::numeric_limits<T>::epsilon();
    return std::abs(got - expected) <= static_cast<double>(terms + 2) * eps * magnitude + 1e-300;
}

template <class T>
void check_set(const simd::Table& table, Scalar scalar, Index m, Index p, Index n, Index ldw, Index offset) {
    CAPTURE(table.name);
    CAPTURE(offset);
    CAPTURE(m);
    CAPTURE(p);
    CAPTURE(n);
    Index wrong = 0;
    const Index ldc = std::max(n, p) + 5;
    const Stored W(scalar, offset + p * ldw, 1);
    const auto w = [&](Index k, Index j) { return W.values[static_cast<std::size_t>(offset + k * ldw + j)]; };
    const void* at = W.bytes.data() + static_cast<std::size_t>(offset) * size_of(scalar);

    const std::vector<T> xt = entries<T>(p * m, 2);
    std::vector<T> c(static_cast<std::size_t>(m * ldc), T(1));
    kernels_of<T>(table).accumulate(scalar, m, p, n, xt.data(), m, at, ldw, c.data(), ldc);
    for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < ldc; ++j) {
            double sum = 1.0, size = 1.0;
            for (Index k = 0; k < p && j < n; ++k) {
                const double term = static_cast<double>(xt[static_cast<std::size_t>(k * m + i)]) * w(k, j);
                sum += term;
                size += std::abs(term);
            }
            wrong += !close<T>(static_cast<double>(c[static_cast<std::size_t>(i * ldc + j)]), sum, size, p);
        }

    const std::vector<T> y = entries<T>(m * n, 3);
    const simd::RowCut cut = simd::row_cut(kernels_of<T>(table), scalar, n, at, ldw);
    const Index chunks = (cut.packed + simd::kDotChunk<T> - 1) / simd::kDotChunk<T>;
    Matrix<T> packed(chunks * m, simd::kDotChunk<T>);
    for (Index chunk = 0; chunk < chunks; ++chunk)
        pack_rows<T>(T(1), {y.data(), m, n}, cut, chunk, packed.data() + chunk * m * simd::kDotChunk<T>);
    std::fill(c.begin(), c.end(), T(1));
    kernels_of<T>(table).dots(scalar, m, p, cut, packed.data(), at, ldw, c.data(), ldc);
    for (Index i = 0; i < m; ++i)
        for (Index k = 0; k < ldc; ++k) {
            double sum = 1.0, size = 1.0;
            for (Index j = 0; j < n && k < p; ++j) {
                const double term = static_cast<double>(y[static_cast<std::size_t>(i * n + j)]) * w(k, j);
                sum += term;
                size += std::abs(term);
            }
            wrong += !close<T>(static_cast<double>(c[static_cast<std::size_t>(i * ldc + k)]), sum, size, n);
        }
    CHECK(wrong == 0);
}

template <class T>
void check_outer(const simd::Table& table, Index m, Index p, Index n, Index offset) {
    CAPTURE(table.name);
    const std::vector<T> l = entries<T>(p * m, 4), r = entries<T>(p * n, 5);
    const Index ldc = (n + 31) / 16 * 16;
    Index wrong = 0;
    for (const bool add : {false, true})
        for (const bool stream : {false, true}) {
            Matrix<T> c(m + 1, ldc);
            c.view().eigen().setConstant(T(2));
            kernels_of<T>(table).outer(m, p, n, l.data(), m, r.data(), n, c.data() + offset, ldc, add, stream);
            for (Index i = 0; i < m; ++i)
                for (Index j = 0; j < n; ++j) {
                    double sum = add ? 2.0 : 0.0, size = 2.0;
                    for (Index k = 0; k < p; ++k) {
                        const double term = static_cast<double>(l[static_cast<std::size_t>(k * m + i)]) *
                                            static_cast<double>(r[static_cast<std::size_t>(k * n + j)]);
                        sum += term;
                        size += std::abs(term);
                    }
                    wrong += !close<T>(static_cast<double>(c.data()[offset + i * ldc + j]), sum, size, p);
                }
        }
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("skinny kernels of every instruction set") {
    const std::vector<Index> rows{1, 2, 3, 5, 6, 7, 10, 12, 13, 25};
    for (const simd::Table* table : simd::supported_tables())
        for (const Index m : rows)
            for (const auto& [p, n] :
                 std::vector<std::pair<Index, Index>>{{1, 1}, {3, 70}, {65, 33}, {130, 96}, {9, 1030}, {66, 1600}}) {
                // Rows that lie to the vectors differently, or all alike.
                for (const auto& [ldw, offset] : std::vector<std::pair<Index, Index>>{
                         {n + 3, 0}, {(n + 15) / 16 * 16, 0}, {(n + 15) / 16 * 16, 5}}) {
                    for (const Scalar scalar : {Scalar::f32, Scalar::f16, Scalar::bf16}) {
                        check_set<float>(*table, scalar, m, p, n, ldw, offset);
                        check_set<double>(*table, scalar, m, p, n, ldw, offset);
                    }
                    check_set<double>(*table, Scalar::f64, m, p, n, ldw, offset);
                }
            }
}

TEST_CASE("more rows than share a converted copy") {
    for (const simd::Table* table : simd::supported_tables())
        for (const Index m : {97, 160, 175})
            for (const Scalar scalar : {Scalar::f32, Scalar::f16, Scalar::bf16}) {
                check_set<float>(*table, scalar, m, 9, 1030, 1033, 0);
                check_set<double>(*table, scalar, m, 9, 1030, 1033, 0);
            }
}

// C + scale X Wᵀ W, compared in units of eps and the sum of all sizes.
template <class T>
void check_normal(const simd::Table& table, Scalar scalar, Index p, Index n, Index ldw, Index offset) {
    const auto& kernels = kernels_of<T>(table);
    const Stored W(scalar, offset + p * ldw, 6);
    const auto w = [&](Index k, Index j) { return W.values[static_cast<std::size_t>(offset + k * ldw + j)]; };
    const void* at = W.bytes.data() + static_cast<std::size_t>(offset) * size_of(scalar);
    const simd::RowCut cut = simd::row_cut(kernels, scalar, n, at, ldw);
    Index wrong = 0;
    for (Index m = 1; m <= kernels.normal_rows; ++m) {
        const std::vector<T> y = entries<T>(m * n, 7);
        Matrix<T> x = Matrix<T>::zeros(m, cut.packed), c(m, cut.packed);
        x.view().col_block(cut.shift, n).eigen() = ConstMatrixView<T>(y.data(), m, n).eigen();
        c.view().eigen().setOnes();
        kernels.normal(scalar, m, p, cut, x.data(), at, ldw, T(0.5), c.data());
        std::vector<double> image(static_cast<std::size_t>(p)), sizes(image);
        for (Index i = 0; i < m; ++i) {
            for (Index k = 0; k < p; ++k) {
                const auto row = static_cast<std::size_t>(k);
                image[row] = sizes[row] = 0.0;
                for (Index e = 0; e < n; ++e) {
                    const double term = static_cast<double>(y[static_cast<std::size_t>(i * n + e)]) * w(k, e);
                    image[row] += term;
                    sizes[row] += std::abs(term);
                }
            }
            for (Index j = 0; j < cut.packed; ++j) {
                const bool inside = j >= cut.shift && j < cut.shift + n;
                double sum = 1.0, size = 1.0;
                for (Index k = 0; k < p && inside; ++k) {
                    sum += 0.5 * image[static_cast<std::size_t>(k)] * w(k, j - cut.shift);
                    size += 0.5 * sizes[static_cast<std::size_t>(k)] * std::abs(w(k, j - cut.shift));
                }
                wrong += !close<T>(static_cast<double>(c.view()(i, j)), sum, size, n + p);
            }
        }
    }
    CAPTURE(table.name);
    CAPTURE(p);
    CAPTURE(n);
    CAPTURE(offset);
    CHECK(wrong == 0);
}

// Up to 16 rows are a batch, fewer of long ones; with more rows than a batch the ones before are used up meanwhile, 8
// vectors of a row for every two of theirs.
TEST_CASE("normal products of every instruction set") {
    std::vector<std::pair<Index, Index>> shapes{{16, 70},  {17, 1},   {40, 31},  {33, 64},
                                                {37, 300}, {40, 530}, {9, 20000}};
    for (const Index p : {1, 4, 7})
        for (const Index n : {1, 31, 64, 70}) shapes.emplace_back(p, n);
    for (const simd::Table* table : simd::supported_tables())
        for (const auto& [p, n] : shapes) {
            const Index whole = std::max<Index>(96, (n + 31) / 32 * 32);
            for (const auto& [ldw, offset] : std::vector<std::pair<Index, Index>>{{n + 3, 0}, {whole, 0}, {whole, 5}}) {
                for (const Scalar scalar : {Scalar::f32, Scalar::f16, Scalar::bf16}) {
                    check_normal<float>(*table, scalar, p, n, ldw, offset);
                    check_normal<double>(*table, scalar, p, n, ldw, offset);
                }
                check_normal<double>(*table, Scalar::f64, p, n, ldw, offset);
            }
        }
}

template <class T>
void check_addresses(const simd::Table& table) {
    const auto& kernels = kernels_of<T>(table);
    const Index m = 5, p = 7, n = 70, ldw = 96;
    std::mt19937 engine(1);
    std::normal_distribution<double> normal;
    std::vector<T> X(static_cast<std::size_t>(m * n)), values(static_cast<std::size_t>(p * ldw));
    for (T& x : X) x = static_cast<T>(normal(engine));
    for (T& x : values) x = static_cast<T>(normal(engine) * std::exp(4.0 * normal(engine)));
    Matrix<T> memory(p + 1, ldw);  // starts at a cache line
    std::vector<T> first;
    for (Index offset = 0; offset < 64 / static_cast<Index>(sizeof(T)); ++offset) {
        T* w = memory.data() + offset;
        std::copy(values.begin(), values.end(), w);
        const simd::RowCut cut = simd::row_cut(kernels, scalar_of<T>(), n, w, ldw);
        std::vector<T> packed(static_cast<std::size_t>(m * simd::kDotChunk<T>)),
            out(static_cast<std::size_t>(m * (p + n)));
        pack_rows<T>(T(1), {X.data(), m, n}, cut, 0, packed.data());
        kernels.dots(scalar_of<T>(), m, p, cut, packed.data(), w, ldw, out.data(), p);
        kernels.accumulate(scalar_of<T>(), m, p, n, X.data(), m, w, ldw, out.data() + m * p, n);
        Matrix<T> x = Matrix<T>::zeros(1, cut.packed), c = Matrix<T>::zeros(1, cut.packed);
        std::copy_n(X.data(), n, x.data() + cut.shift);
        kernels.normal(scalar_of<T>(), 1, p, cut, x.data(), w, ldw, T(1), c.data());
        out.insert(out.end(), c.data() + cut.shift, c.data() + cut.shift + n);
        if (offset == 0) first = out;
        CHECK(out == first);
    }
}

TEST_CASE("sums are the same bits wherever the rows lie") {
    for (const simd::Table* table : simd::supported_tables()) {
        CAPTURE(table->name);
        check_addresses<float>(*table);
        check_addresses<double>(*table);
    }
}

TEST_CASE("outer products, added, overwritten and written past the caches") {
    for (const simd::Table* table : simd::supported_tables())
        for (const Index m : {1, 5, 12, 29})
            for (const Index p : {1, 8, 20})
                for (const Index n : {1, 31, 64, 100})
                    for (const Index offset : {0, 1}) {
                        check_outer<float>(*table, m, p, n, offset);
                        check_outer<double>(*table, m, p, n, offset);
                    }
}

TEST_CASE("half precision is widened exactly, subnormals and signs included") {
    for (const simd::Table* table : simd::supported_tables()) {
        std::vector<std::uint16_t> bits;
        for (unsigned b = 0; b < 0x10000; ++b)
            if ((b & 0x7c00) != 0x7c00) bits.push_back(static_cast<std::uint16_t>(b));  // finite in float16
        const Index n = static_cast<Index>(bits.size());
        const float one = 1.0f;
        std::vector<float> out(bits.size(), 0.0f);
        table->skinny32.accumulate(Scalar::f16, 1, 1, n, &one, 1, bits.data(), n, out.data(), n);
        Index wrong = 0;
        for (std::size_t i = 0; i < bits.size(); ++i)
            wrong += out[i] != static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(bits[i]));
        CHECK(wrong == 0);
    }
}

TEST_CASE_TEMPLATE("skinny products agree with Eigen whatever the layout", T, float, double) {
    RunControl control;
    const double eps = std::numeric_limits<T>::epsilon();
    for (const auto& [m, p, n] :
         std::vector<std::tuple<Index, Index, Index>>{{1, 300, 700}, {10, 300, 700}, {40, 33, 65}, {7, 5, 3}}) {
        const RowMajor<T> X = RowMajor<T>::Random(m, p), W = RowMajor<T>::Random(p, n), Y = RowMajor<T>::Random(m, n);
        const StoredMatrix stored{W.data(), scalar_of<T>(), p, n, n, 1};
        RowMajor<T> C = RowMajor<T>::Ones(m, n), E = RowMajor<T>::Ones(m, p), F = RowMajor<T>::Ones(p, n);
        REQUIRE(skinny_product<T>(T(-2), {X.data(), m, p}, stored, T(3), {C.data(), m, n}, control));
        const RowMajor<T> expected = T(-2) * X * W + T(3) * RowMajor<T>::Ones(m, n);
        CHECK((C - expected).norm() <= 4 * eps * static_cast<double>(p) * expected.norm());
        REQUIRE(skinny_product<T>(T(2), {Y.data(), m, n}, stored.transposed(), T(0), {E.data(), m, p}, control));
        const RowMajor<T> dots = T(2) * Y * W.transpose();
        CHECK((E - dots).norm() <= 4 * eps * static_cast<double>(n) * dots.norm());
        if (p > kSkinnyRows) {
            const StoredMatrix right{Y.data(), scalar_of<T>(), m, n, n, 1};
            REQUIRE(skinny_product<T>(T(2), ConstMatrixView<T>(X.data(), m, p).transposed(), right, T(1),
                                      {F.data(), p, n}, control));
            const RowMajor<T> outer = T(2) * X.transpose() * Y + RowMajor<T>::Ones(p, n);
            CHECK((F - outer).norm() <= 4 * eps * static_cast<double>(m) * outer.norm());
        }
        C.setOnes();
        E.setOnes();
        skinny_pair<T>({X.data(), m, p}, {Y.data(), m, n}, {W.data(), p, n}, {C.data(), m, n}, {E.data(), m, p},
                       control);
        const RowMajor<T> below = X * W + RowMajor<T>::Ones(m, n), above = Y * W.transpose() + RowMajor<T>::Ones(m, p);
        CHECK((C - below).norm() <= 4 * eps * static_cast<double>(p) * below.norm());
        CHECK((E - above).norm() <= 4 * eps * static_cast<double>(n) * above.norm());
        RowMajor<T> Z = RowMajor<T>::Ones(m, n);
        skinny_normal<T>(T(-0.5), {Y.data(), m, n}, stored, {Z.data(), m, n}, control);
        const RowMajor<T> normal = T(0.25) * (Y * W.transpose()) * W;
        CHECK((Z - normal).norm() <= 4 * eps * static_cast<double>(n + p) * normal.norm());
    }
}

TEST_CASE_TEMPLATE("the normal product of few and of twice as many rows, whatever the matrix is stored in", T, float,
                   double) {
    RunControl control;
    const Index p = 40, n = 65, few = simd::skinny<T>().normal_rows;
    for (const Scalar scalar : {Scalar::f16, Scalar::bf16, Scalar::f32, scalar_of<T>()}) {
        const Stored W(scalar, p * n, 1);
        const Eigen::Map<const RowMajor<double>> w(W.values.data(), p, n);
        for (const Index m : {Index{1}, few, few + 1, 2 * few, 2 * few + 1}) {
            CAPTURE(m);
            const std::vector<T> values = entries<T>(m * n, 2);
            const RowMajor<double> x = Eigen::Map<const RowMajor<T>>(values.data(), m, n).template cast<double>();
            RowMajor<T> Y = RowMajor<T>::Ones(m, n);
            skinny_normal<T>(T(0.5), {values.data(), m, n}, {W.bytes.data(), scalar, p, n, n, 1}, {Y.data(), m, n},
                             control);
            const RowMajor<double> expected = 0.25 * (x * w.transpose()) * w;
            const RowMajor<double> size = 0.25 * (x.cwiseAbs() * w.cwiseAbs().transpose()) * w.cwiseAbs();
            const double eps = std::numeric_limits<T>::epsilon() * static_cast<double>(n + p + 4);
            CHECK(((Y.template cast<double>() - expected).array().abs() <= eps * size.array()).all());
        }
    }
}
