// The kernels of small_chain.hpp. Included inside a set's own namespace, after lanes.inc.hpp.

constexpr Index kSumChunk = 4096;

// -- sums of products
// ----------------------------------------------------------------------------------------------------

// R × V vectors of C: every right row adds broadcast(left) times itself.
template <class T, int R, int V>
void chain_tile(const Term<T>* terms, int count, Index row, Index col, T* c, Index ldc) {
    typename Lanes<T>::Vector acc[R][V] = {};
    for (int t = 0; t < count; ++t) {
        const Term<T>& term = terms[t];
        const T* a = term.a + row * term.a_row;
        const T* b = term.b + col;
        for (Index k = 0; k < term.depth; ++k) {
            typename Lanes<T>::Vector right[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) right[v] = load(b + v * Lanes<T>::count);
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
                const T left = a[i * term.a_row];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) acc[i][v] += left * right[v];
            }
            a += term.a_col;
            b += term.ldb;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(c + i * ldc + v * Lanes<T>::count, acc[i][v]);
}

template <class T, int V>
void chain_rows(Index rows, const Term<T>* terms, int count, Index row, Index col, T* c, Index ldc) {
    using Tile = void (*)(const Term<T>*, int, Index, Index, T*, Index);
    static constexpr Tile tiles[] = {
        chain_tile<T, 1, V>,  chain_tile<T, 2, V>,  chain_tile<T, 3, V>,
        chain_tile<T, 4, V>,  chain_tile<T, 5, V>,  chain_tile<T, 6, V>,
#if FLATCORE_MOST_ROWS > 6
        chain_tile<T, 7, V>,  chain_tile<T, 8, V>,  chain_tile<T, 9, V>,
        chain_tile<T, 10, V>, chain_tile<T, 11, V>, chain_tile<T, 12, V>,
#endif
    };
    tiles[rows - 1](terms, count, row, col, c, ldc);
}

template <class T>
void chain_multiply(Index m, Index n, const Term<T>* terms, int count, T* c, Index ldc) {
    constexpr Index L = Lanes<T>::count;
    const Index blocks = (m + FLATCORE_MOST_ROWS - 1) / FLATCORE_MOST_ROWS;
    Index j = 0;
    if (m == 1)  // one row has too few sums in flight with two vectors
        for (; n - j >= 8 * L; j += 8 * L) chain_tile<T, 1, 8>(terms, count, 0, j, c + j, ldc);
    for (; j < n; j += 2 * L) {
        for (Index block = 0; block < blocks; ++block) {
            const Index row = m * block / blocks, rows = m * (block + 1) / blocks - row;
            if (n - j >= 2 * L)
                chain_rows<T, 2>(rows, terms, count, row, j, c + row * ldc + j, ldc);
            else
                chain_rows<T, 1>(rows, terms, count, row, j, c + row * ldc + j, ldc);
        }
    }
}

// -- transposition
// -------------------------------------------------------------------------------------------------------

template <int... i>
struct Numbers {};
template <int n, int... i>
struct FirstNumbers : FirstNumbers<n - 1, n - 1, i...> {};
template <int... i>
struct FirstNumbers<0, i...> {
    using Type = Numbers<i...>;
};

// Exchanges the off-diagonal h × h blocks of the rows a and b, h apart.
template <int h, class V, int... l>
void exchange(V& a, V& b, Numbers<l...>) {
    constexpr int L = sizeof...(l);
    const V low = __builtin_shufflevector(a, b, ((l & h) != 0 ? L + l - h : l)...);
    b = __builtin_shufflevector(a, b, ((l & h) != 0 ? L + l : l + h)...);
    a = low;
}

template <int L, int h, class V>
void turn_block(V* rows) {
    if constexpr (h > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i)
            if ((i & h) == 0) exchange<h>(rows[i], rows[i + h], typename FirstNumbers<L>::Type{});
        turn_block<L, h / 2>(rows);
    }
}

template <class T>
void chain_turn(Index m, Index n, const T* a, Index lda, T* turned, Index ldt) {
    constexpr int L = Lanes<T>::count;
    for (Index i = 0; i < ldt; i += L) {
        for (Index j = 0; j < n; j += L) {
            typename Lanes<T>::Vector rows[L];
#pragma GCC unroll 16
            for (int r = 0; r < L; ++r) rows[r] = i + r < m ? load(a + (i + r) * lda + j) : typename Lanes<T>::Vector{};
            turn_block<L, L / 2>(rows);
#pragma GCC unroll 16
            for (int r = 0; r < L; ++r)
                if (j + r < n) store(turned + (j + r) * ldt + i, rows[r]);
        }
    }
}

// -- vectors
// -------------------------------------------------------------------------------------------------------------

template <class V>
double lane_total(V sum) {
    double total = 0.0;
    for (unsigned lane = 0; lane < sizeof(V) / sizeof(sum[0]); ++lane) total += static_cast<double>(sum[lane]);
    return total;
}
// Halves onto halves: what waits for the sum waits for a third of the additions.
inline double lane_total(Double sum) {
#if FLATCORE_VECTOR_BYTES == 64
    const auto four = __builtin_shufflevector(sum, sum, 0, 1, 2, 3) + __builtin_shufflevector(sum, sum, 4, 5, 6, 7);
#elif FLATCORE_VECTOR_BYTES == 32
    const auto four = sum;
#endif
#if FLATCORE_VECTOR_BYTES >= 32
    const auto two = __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
    return two[0] + two[1];
#else
    return sum[0] + sum[1];
#endif
}

template <class T>
double chain_dot(Index n, const T* x, const T* y) {
    constexpr Index L = Lanes<T>::count;
    double total = 0.0;
    for (Index first = 0; first < n; first += kSumChunk) {
        const Index last = first + kSumChunk < n ? first + kSumChunk : n;
        typename Lanes<T>::Vector sum[4] = {};
        Index j = first;
        for (; j + 4 * L <= last; j += 4 * L)
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) sum[v] += load(x + j + v * L) * load(y + j + v * L);
        for (; j < last; j += L) sum[0] += load(x + j) * load(y + j);
        total += lane_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    return total;
}

template <class T>
double chain_recur(Index n, T alpha, const T* q, T beta, const T* p, T* w) {
    constexpr Index L = Lanes<T>::count;
    if (!p) {
        p = q;
        beta = T(0);
    }
    double total = 0.0;
    for (Index first = 0; first < n; first += kSumChunk) {
        const Index last = first + kSumChunk < n ? first + kSumChunk : n;
        typename Lanes<T>::Vector even = {}, odd = {};
        for (Index j = first; j < last; j += 2 * L) {
            const auto left = load(w + j) - alpha * load(q + j) - beta * load(p + j);
            store(w + j, left);
            even += left * left;
            if (j + L < last) {
                const auto right = load(w + j + L) - alpha * load(q + j + L) - beta * load(p + j + L);
                store(w + j + L, right);
                odd += right * right;
            }
        }
        total += lane_total(even + odd);
    }
    return total;
}

template <class T>
void chain_add(Index n, T alpha, const T* x, T* y) {
    for (Index j = 0; j < n; j += Lanes<T>::count) store(y + j, load(y + j) + alpha * load(x + j));
}

template <class T>
void chain_scale(Index n, T alpha, const T* x, T* y) {
    for (Index j = 0; j < n; j += Lanes<T>::count) store(y + j, alpha * load(x + j));
}

template <class T>
void chain_round(Index n, const double* x, T* y) {
    for (Index j = 0; j < n; ++j) y[j] = static_cast<T>(x[j]);
}

template <class T>
void chain_uniform(Index n, std::uint64_t counter, T* x) {
    const auto entry = [](std::uint64_t bits) {
        return static_cast<T>(static_cast<std::int32_t>(static_cast<std::uint32_t>(bits))) * T(0x1p-31);
    };
    for (Index pair = 0; pair < n / 2; ++pair) {
        const std::uint64_t bits = mixed(counter + static_cast<std::uint64_t>(pair));
        x[2 * pair] = entry(bits);
        x[2 * pair + 1] = entry(bits >> 32);
    }
    if (n % 2 != 0) x[n - 1] = entry(mixed(counter + static_cast<std::uint64_t>(n / 2)));
}

// -- the Hessian product
// -------------------------------------------------------------------------------------------------

// dnear_1 … dnear_M; where near_0 = I, dnear_1 is D_1 itself.
template <class T>
const T* chain_down(const SmallChain<T>& chain, const T* D) {
    const T* dnear = nullptr;
    for (Index s = 1; s <= chain.depth; ++s) {
        const Index rows = chain.width[s - 1], ld = chain.padded[s];
        const T* direction = D + chain.offset[s];
        if (s == 1 && !chain.near[0]) {
            dnear = direction;
            continue;
        }
        const Term<T> terms[2] = {{chain.near[s - 1], chain.padded[s - 1], 1, direction, ld, rows},
                                  {dnear, chain.padded[s - 1], 1, chain.link[s], ld, rows}};
        chain_multiply(chain.m, ld, terms, dnear ? 2 : 1, chain.dnear[s], ld);
        dnear = chain.dnear[s];
    }
    return dnear;
}

template <class T>
void chain_loss(const SmallChain<T>& chain, const T* dnear, T* sigma) {
    const Index ld = chain.padded[chain.depth];
    if (!chain.metric) {
        chain_scale(chain.m * ld, chain.scale, dnear, sigma);
        return;
    }
    for (Index i = 0; i < chain.m; ++i)
        for (Index j = 0; j < ld; j += Lanes<T>::count)
            store(sigma + i * ld + j, load(dnear + i * ld + j) * load(chain.metric + j));
}

// The level-1 part of the far sweep: out_1 = near_0ᵀ σ_1.
template <class T>
void chain_first_block(const SmallChain<T>& chain, const T* sigma, T* out) {
    const Index ld = chain.padded[1];
    const Term<T> term{chain.near[0], 1, chain.padded[0], sigma, ld, chain.m};
    chain_multiply(chain.width[0], ld, &term, 1, out + chain.offset[1], ld);
}

// Inner products are taken block by block, while a block is in the first cache.
template <class T>
double chain_hessian(const SmallChain<T>& chain, const T* D, T* out) {
    double product = 0.0;
    const T* dnear_far = chain_down(chain, D);
    const bool identity = !chain.near[0];
    T* const first = identity ? out + chain.offset[1] : chain.sigma;  // where near_0 = I, out_1 is σ_1 itself
    T* sigma = chain.depth == 1 ? first : chain.sigma;
    chain_loss(chain, dnear_far, sigma);
    T *turned = chain.sigma_turned[0], *next = chain.sigma_turned[1];
    if (chain.depth > 1)
        chain_turn(chain.m, chain.width[chain.depth], sigma, chain.padded[chain.depth], turned, chain.m_padded);
    for (Index s = chain.depth; s > 1; --s) {
        const Index rows = chain.width[s - 1], cols = chain.width[s], ld = chain.padded[s], below = chain.padded[s - 1];
        const T* dnear = s == 2 && identity ? D + chain.offset[1] : chain.dnear[s - 1];
        const int terms = chain.far ? 2 : 1;
        const Term<T> block[2] = {{chain.near[s - 1], 1, below, sigma, ld, chain.m},
                                  {dnear, 1, below, chain.far ? chain.far[s] : nullptr, ld, chain.m}};
        chain_multiply(rows, ld, block, terms, out + chain.offset[s], ld);
        product += chain_dot(rows * ld, D + chain.offset[s], out + chain.offset[s]);
        const Term<T> up[2] = {
            {chain.link[s], ld, 1, turned, chain.m_padded, cols},
            {D + chain.offset[s], ld, 1, chain.far ? chain.far_turned[s] : nullptr, chain.m_padded, cols}};
        chain_multiply(rows, chain.m_padded, up, terms, next, chain.m_padded);
        T* const spent = turned;
        turned = next;
        next = spent;
        sigma = s == 2 ? first : chain.sigma;
        chain_turn(rows, chain.m, turned, chain.m_padded, sigma, below);
    }
    if (!identity) chain_first_block(chain, sigma, out);
    return product + chain_dot(chain.width[0] * chain.padded[1], D + chain.offset[1], out + chain.offset[1]);
}

template <class T>
constexpr SmallChainKernels<T> small_chain_kernels() {
    return {Lanes<T>::count, chain_hessian<T>, chain_multiply<T>, chain_turn<T>,  chain_dot<T>,
            chain_recur<T>,  chain_add<T>,     chain_scale<T>,    chain_round<T>, chain_uniform<T>};
}
