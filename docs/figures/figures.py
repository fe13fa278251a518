#!/usr/bin/env python3
"""The figures of the lessons: pictures of ideas, not of results. `make figures` writes them beside this file; --check says
whether they are what this program draws. One style for all, in light and in dark pages. A function draws the figure of
its name, and FIGURES, at the end, lists them."""
import math, os, sys

HERE = os.path.dirname(os.path.abspath(__file__))
STYLE = """
text { font: 15px system-ui, sans-serif; fill: #1f2328 } .small { font-size: 13px; fill: #59636e } .head { font-weight: 600 }
.math { font-family: Georgia, serif; font-style: italic } .line { stroke: #59636e; fill: none; stroke-width: 1.5 }
.a { fill: #2f6fdb33; stroke: #2f6fdb } .b { fill: #d9730d33; stroke: #d9730d } .c { fill: #1a7f3733; stroke: #1a7f37 }
.none { fill: none; stroke: #59636e }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .small { fill: #9198a1 } .line, .none { stroke: #9198a1 } }
"""


class Figure:
    def __init__(self, width, height, title):
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        self.head = (f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
                     f"<title>{title}</title>\n<style>{STYLE}</style>\n"
                     '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
                     '<path d="M0 0 L8 4 L0 8" class="line"/></marker></defs>\n')
        self.parts = []

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, words, kind="", anchor="middle"):
        self.add(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{words}</text>')

    def box(self, x, y, width, height, kind, words="", text_kind=""):
        self.add(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" class="{kind}"/>')
        if words:
            self.text(x + width / 2, y + height / 2 + 5, words, text_kind)

    def arrow(self, x1, y1, x2, y2, tip=True):
        end = ' marker-end="url(#tip)"' if tip else ""
        self.add(f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" class="line"{end}/>')

    def __str__(self):
        return self.head + "\n".join(self.parts) + "\n</svg>\n"


def merge():
    f = Figure(740, 300, "Two sets with their sums, and the union: the sum of the smaller maximum shrinks")
    unit, floor = 130, 240  # pixels of a weight of 1; where stacks stand

    def stack(x, pieces):
        y = floor
        for weight, kind, words in pieces:
            y -= weight * unit
            f.box(x, y, 90, weight * unit, kind, words if weight > 0.2 else "", "small")
        return y

    e1, e2 = math.exp(-1), math.exp(-2)
    f.text(85, 24, "X = {1}", "head")
    f.text(245, 24, "Y = {3, 2}", "head")
    f.text(565, 24, "the union", "head")
    stack(40, [(1, "a", "e¹⁻¹ = 1")])
    stack(200, [(1, "b", "e³⁻³ = 1"), (e1, "b", "e²⁻³ = 0.37")])
    top = stack(520, [(1, "b", "1"), (e1, "b", "0.37"), (e2, "a", "")])
    f.text(620, top + 14, "1 · e¹⁻³ = 0.14", "small", "start")
    for x, m, l in ((85, "1", "1"), (245, "3", "1.37"), (565, "3", "1.50")):
        f.text(x, floor + 24, f"m = {m}", "math")
        f.text(x, floor + 44, f"l = {l}", "math")
    f.text(165, 180, "and")
    f.arrow(310, 175, 500, 175)
    f.text(405, 144, "X has the smaller maximum:", "small")
    f.text(405, 162, "it shrinks, times e¹⁻³", "small")
    f.text(405, 200, "Y stays as it is", "small")
    return f


def shift():
    f = Figure(740, 222, "Three scores beyond the end of fp32's exponential, and the same three minus their maximum")
    place = lambda x: 375 + 2.6 * x
    for y, title, row, kind in ((52, "x", (95, 108, 121), "b"), (148, "x − m", (-26, -13, 0), "c")):
        f.box(place(88.7), y - 36, place(128) - place(88.7), 36, "b", "eˣ is infinite", "small")
        f.box(place(-128), y - 36, place(-104) - place(-128), 36, "none", "eˣ is 0", "small")
        f.arrow(place(-132), y, place(136), y)
        f.text(place(-64), y - 14, title, "math")
        f.text(place(-104), y + 22, "−104", "small")
        f.text(place(88.7) - 8, y - 8, "88.7", "small", "end")
        for x in row:
            f.add(f'<circle cx="{place(x):g}" cy="{y}" r="6" class="{kind}"/>')
            f.text(place(x), y + 24, f"{x}".replace("-", "−"), "small")
    f.text(370, 208, "minus m = 121 the largest weight is e⁰ = 1, and all ratios are what they were", "small")
    return f


def tree():
    f = Figure(720, 380, "The merge tree: elements, lanes, warps and blocks join by the same rule")
    levels = [("elements of a row", 16, "one at a time, in registers", "step 03"),
              ("lanes of a warp", 8, "shuffles", "steps 03 and 04"), ("warps of a block", 4, "shared memory", "step 05"),
              ("blocks", 2, "a cluster, or memory", "steps 09 and 10"), ("the row", 1, "", "")]
    left, right = 180, 520
    places = []
    for i, (name, count, how, step) in enumerate(levels):
        y = 24 + 72 * i
        xs = [left + (right - left) * (k + 0.5) / count for k in range(count)]
        for x in xs:
            f.box(x - 8, y, 16, 18, "abc"[min(i, 2)])
        if places:
            for k, x in enumerate(places[-1]):
                f.arrow(x, y - 72 + 18, xs[k * count // len(places[-1])], y - 2, False)
        f.text(left - 16, y + 14, name, "", "end")
        if how:
            f.text(right + 24, y + 50, how, "small", "start")
            f.text(right + 24, y + 66, step, "small", "start")
        places.append(xs)
    f.text((left + right) / 2, 24 + 72 * 4 + 42, "(m, l): at every level the same two numbers, and the same merge", "small")
    return f


def stream():
    f = Figure(720, 330, "Standard attention writes L times L numbers; fused attention lets keys and values stream past a state")
    f.text(170, 24, "standard: L × L numbers in memory", "head")
    f.box(20, 120, 36, 130, "a", "Q", "math")
    f.box(86, 60, 130, 36, "b", "Kᵀ", "math")
    f.box(86, 120, 130, 130, "none", "S, then P", "math")
    f.box(240, 120, 36, 130, "b", "V", "math")
    f.box(300, 120, 36, 130, "c", "O", "math")
    f.text(151, 272, "written, read, written, read", "small")
    f.arrow(60, 185, 82, 185)
    f.arrow(151, 98, 151, 116)
    f.arrow(218, 185, 236, 185)
    f.arrow(278, 185, 296, 185)
    f.text(552, 24, "fused: a state for each query", "head")
    f.box(400, 150, 36, 22, "a", "q", "math")
    for i in range(6):  # two are done with, the third is being merged
        f.box(470 + 28 * i, 70, 22, 36, "none" if i < 2 else "b", "k" if i >= 2 else "", "math")
        f.box(470 + 28 * i, 112, 22, 22, "none" if i < 2 else "b", "v" if i >= 2 else "", "math")
    f.text(495, 58, "gone", "small")
    f.text(592, 58, "to come", "small")
    f.box(500, 190, 110, 44, "c", "(m, l, o)", "math")
    f.arrow(438, 165, 496, 200)
    f.arrow(537, 138, 550, 186)
    f.text(555, 256, "each key is one merge, and then forgotten", "small")
    f.text(555, 276, "at the end O = o / l; no row of S ever exists", "small")
    f.arrow(370, 40, 370, 300, False)
    return f


def lanes():
    f = Figure(720, 230, "A warp on a row: lane i takes the columns i, i + 32, i + 64, and 32 neighbours are loaded at once")
    f.text(16, 44, "one load", "", "start")
    f.text(16, 128, "the next", "", "start")
    for row, y in enumerate((26, 110)):
        for i in range(8):
            x = 100 + 62 * i + (70 if i > 5 else 0)
            column = (32 * row if i < 6 else 32 * row + 24) + i
            f.box(x, y, 52, 28, "a" if i != 1 else "c", f"x[{column}]", "small")
            f.text(x + 26, y + 46, f"lane {i if i < 6 else i + 24}", "small")
        f.text(505, y + 20, "…")
    f.text(380, 196, "128 bytes in one piece; at the end shuffles join what the 32 lanes have", "small")
    f.text(380, 216, "lane 1 (green) sees the columns 1, 33, 65, …", "small")
    return f


def resident():
    f = Figure(720, 250, "Trips of a row between memory and chip: two passes read it twice, a resident row once")
    for k, (title, trips) in enumerate((("two passes: 2 reads, 1 write", ("(m, l)", "divide", "")),
                                        ("a resident row: 1 read, 1 write", ("all of it", "")))):
        x0 = 20 + 370 * k
        width = 320
        f.text(x0 + width / 2, 24, title, "head")
        f.box(x0, 44, width, 34, "a", "memory: the row")
        f.box(x0, 176, width, 34, "c", "the chip" if k == 0 else "the chip: the row stays")
        for i, what in enumerate(trips):
            x = x0 + width * (i + 0.5) / len(trips)
            down = what != ""
            f.arrow(x, 82 if down else 172, x, 172 if down else 82)
            f.text(x + 6, 122, "read" if down else "write", "small", "start")
            if down:
                f.text(x + 6, 140, what, "small", "start")
    f.text(360, 238, "time goes from left to right", "small")
    return f


def packs():
    f = Figure(720, 214, "A warp on a row, a pack of four neighbouring columns for each lane; a pack merges at once")
    for i in range(4):
        lane = i if i < 3 else 31
        x = 20 + 165 * i + (30 if i == 3 else 0)
        for k in range(4):
            f.box(x + 36 * k, 40, 34, 28, "a" if i != 1 else "c", f"{4 * lane + k}", "small")
        f.text(x + 71, 28, f"lane {lane}", "small")
        f.arrow(x + 71, 72, x + 71, 100)
        f.box(x + 31, 104, 80, 30, "a" if i != 1 else "c", "(m, l)", "math")
        f.arrow(x + 71, 138, 360 + 24 * (i - 1.5), 168)
    f.text(525, 58, "…")
    f.text(106, 92, "5 exps, not 8", "small", "start")
    f.box(310, 172, 100, 30, "b", "the row", "small")
    f.text(430, 192, "32 states: one maximum, 32 exps, a sum", "small", "start")
    return f


def shelf():
    f = Figure(740, 236, "A thread's packs: four in registers, the next ones in shared memory, and the rest read again")
    left, size = 146, 26.5
    for i in range(22):
        kind = "a" if i < 4 else "b" if i < 18 else "none"
        f.box(left + i * size, 58, size - 4, 30, kind, str(i), "small")
    f.text(left - 14, 78, "a thread's packs", "", "end")
    for first, count, words, more, kind in ((0, 4, "registers", "32 KiB of a row", "a"), (4, 14, "shared memory", "112 KiB", "b"),
                                            (18, 4, "nowhere", "read again", "none")):
        x = left + first * size
        f.text(x + count * size / 2 - 2, 24, words, "head")
        f.text(x + count * size / 2 - 2, 44, more, "small")
        f.box(x, 126, count * size - 4, 44, kind)
        f.arrow(x + count * size / 2 - 2, 92, x + count * size / 2 - 2, 122)
    f.text(left + 2 * size - 2, 153, "as it comes", "small")
    f.text(left + 11 * size - 2, 153, "when all copies are there", "small")
    f.text(left + 20 * size - 2, 153, "last", "small")
    f.text(left - 14, 153, "is merged", "", "end")
    f.text(370, 200, "all loads start at once; the thread that has copied a pack reads it, so there is no barrier", "small")
    f.text(370, 220, "(a block of 512 threads on an H100, two of which share an SM)", "small")
    return f


def transports():
    f = Figure(740, 300, "How the states of a split row travel: through the cluster's shared memory, or through global memory")
    for k, (title, notes) in enumerate((("a cluster", ("each block writes its state", "into every inbox, its own too")),
                                        ("a team of the grid", ("each block posts one word,", "and watches for the others'")))):
        x0 = 20 + 380 * k
        f.text(x0 + 160, 22, title, "head")
        for i in range(4):
            x = x0 + 82 * i
            f.box(x, 40, 70, 52, "a" if i != 1 else "c", "slice", "small")
            f.text(x + 35, 108, f"block {i}", "small")
            if k == 0:
                f.box(x, 172, 70, 34, "none", "inbox", "small")
                f.arrow(x0 + 82 + 35, 114, x + 35, 168)
            else:
                f.arrow(x + 35, 114, x + 35, 168)
                f.box(x, 172, 70, 34, "b" if i != 1 else "c", "(m, l)", "math")
        if k == 0:
            f.text(x0 + 158, 226, "shared memory, a place for each block in each inbox", "small")
        else:
            f.text(x0 + 158, 226, "global memory, a word of 8 bytes a block", "small")
        f.text(x0 + 158, 256, notes[0], "small")
        f.text(x0 + 158, 276, notes[1], "small")
    f.arrow(370, 40, 370, 290, False)
    return f


def loops():
    f = Figure(720, 330, "The two loop orders: with queries outside O stays on chip; with keys outside it is read again")
    orders = (("outer loop: queries", "O stays on chip: written once,", "K and V are read L / BR times"),
              ("outer loop: keys", "K and V stay on chip,", "O is read and written L / BC times"))
    for k, (title, note1, note2) in enumerate(orders):
        x0, y0, n, size = 90 + 360 * k, 80, 5, 32
        f.text(x0 + n * size / 2, 24, title, "head")
        f.text(x0 + n * size / 2, 66, "tiles of keys", "small")
        f.text(x0 - 12, y0 + n * size / 2, "tiles of", "small", "end")
        f.text(x0 - 12, y0 + n * size / 2 + 18, "queries", "small", "end")
        for i in range(n):
            for j in range(n):
                chosen = (i == 1) if k == 0 else (j == 1)
                f.box(x0 + j * size, y0 + i * size, size - 4, size - 4, "c" if chosen else "none")
        if k == 0:
            f.arrow(x0 + 4, y0 + 1.4 * size, x0 + n * size - 8, y0 + 1.4 * size)
        else:
            f.arrow(x0 + 1.4 * size, y0 + 4, x0 + 1.4 * size, y0 + n * size - 8)
        f.text(x0 + n * size / 2, y0 + n * size + 28, note1, "small")
        f.text(x0 + n * size / 2, y0 + n * size + 48, note2, "small")
    f.text(360, 318, "each square is a tile of S, which nobody writes down; green: one turn of the outer loop", "small")
    return f


def registers():
    f = Figure(720, 300, "Who holds which scores: in step 14 a lane has one, in step 15 four packs of 4 x 4")
    size, x0, y0, lane = 20, 330, 92, (1, 2)
    f.text(120, 24, "step 14: a lane, one score", "head")
    f.text(x0 + 8 * size, 24, "step 15: a lane, 8 x 8 scores", "head")
    for k in range(8):
        f.box(40 + k * size, y0 + 2 * size, size - 3, size - 3, "c" if k == 2 else "none")
        f.box(40 + k * size, y0, size - 3, size - 3, "b" if k == 2 else "none")
    f.box(10, y0 + 2 * size, size - 3, size - 3, "a")
    f.text(120, y0 - 10, "8 of the 32 keys, a lane each", "small")
    f.text(120, y0 + 4 * size, "loaded for a multiply-add:", "small")
    f.text(120, y0 + 5 * size, "a number of q, a number of k", "small")
    for i in range(8):
        f.box(x0 - 28, y0 + i * size, size - 3, size - 3, "a" if i % 4 == lane[0] else "none")
        for j in range(16):
            f.box(x0 + j * size, y0 + i * size, size - 3, size - 3, "c" if (i % 4, j % 8) == lane else "none")
    for j in range(16):
        f.box(x0 + j * size, y0 - 26, size - 3, size - 3, "b" if j % 8 == lane[1] else "none")
    f.text(x0 + 8 * size, y0 - 36, "64 keys of a tile, each square 4 of them", "small")
    f.text(x0 - 38, y0 + 6 * size, "32 queries,", "small", "end")
    f.text(x0 - 38, y0 + 7 * size, "4 a square", "small", "end")
    f.text(x0 + 8 * size, y0 + 9 * size, "loaded for 64 multiply-adds: 8 numbers of Q, 8 of K", "small")
    f.text(360, 292, "green: the scores of one lane of a warp; the other 31 have the other squares in the same way", "small")
    return f


def swizzle():
    f = Figure(720, 372, "Eight rows of 128 bytes in shared memory: chunk 2 of each row, as it is and with the swizzle")
    for k, title in enumerate(("as it is: chunk 2 is at place 2", "swizzled: chunk 2 is at place 2 ⊕ row")):
        x0, y0, size = 50 + 350 * k, 66, 30
        f.text(x0 + 4 * size, 24, title, "head")
        f.text(x0 + 4 * size, 54, "places of 16 bytes, 4 banks each", "small")
        for row in range(8):
            f.text(x0 - 10, y0 + row * size + 19, f"{row}", "small", "end")
            for place in range(8):
                chunk = place if k == 0 else place ^ row
                f.box(x0 + place * size, y0 + row * size, size - 3, size - 3, "c" if chunk == 2 else "none", f"{chunk}", "small")
        turns = "8 places, all 32 banks: 1 turn" if k else "one place, the same 4 banks: 8 turns"
        f.text(x0 + 4 * size, y0 + 8 * size + 22, turns, "small")
    f.text(360, 360, "green: what one quarter of an ldmatrix reads, a chunk of each of eight rows", "small")
    return f


def fragments():
    f = Figure(740, 318, "What one lane holds of two C of the first product, of A of the second, and of B")
    size, top, lane = 12, 70, 5
    g, t = lane // 4, lane % 4
    f.add("<style>.d { fill: #8250df33; stroke: #8250df } .e { fill: #59636e66; stroke: #59636e }</style>")

    def matrix(x, columns, name, words, kind_of):
        """16 rows; kind_of(row, col) colours the lane's elements."""
        for row in range(16):
            for col in range(columns):
                f.box(x + col * size, top + row * size, size - 2, size - 2, kind_of(row, col) or "none")
        f.text(x + columns * size / 2, 24, name, "head")
        for i, word in enumerate(words):
            f.text(x + (i // 2 * 8 + 4) * size, top - 26 + (i % 2) * 16, word, "small")

    def quarters(first=0):
        """Of C and A, coloured by the quarter of A that they are in, or will be: from `first` on."""
        return lambda row, col: row % 8 == g and col % 8 // 2 == t and "abcd"[first + row // 8 + 2 * (col // 8)]

    matrix(20, 8, "C: S, 8 keys", ("c[0..1] above,", "c[2..3] below"), quarters())
    matrix(148, 8, "C: the next 8", ("c[0..1] above,", "c[2..3] below"), quarters(2))
    matrix(354, 16, "A: P, 16 keys", ("a[0] above,", "a[1] below", "a[2] above,", "a[3] below"), quarters())
    matrix(606, 8, "B: V, 8 columns", ("b0 above,", "b1 below"), lambda row, col: row % 8 // 2 == t and col == g and "e")
    f.arrow(256, 164, 342, 164)
    f.text(299, 136, "exp(s − m)", "small")
    f.text(299, 152, "two to a word", "small")
    f.text(299, 186, "in the same", "small")
    f.text(299, 202, "lane", "small")
    f.text(370, 288, f"coloured: lane {lane} = 4 · {g} + {t}. Of A and C it holds columns 2 and 3 of row 1 in each quarter,",
           "small")
    f.text(370, 306, "of B, whose quarters are transposed, rows 2 and 3 of column 1", "small")
    return f


def rotated():
    f = Figure(720, 372, "Eight rows of K: the packs that eight lanes read first, if all begin at pack 0, and as they do")
    for k, title in enumerate(("all begin at pack 0", "lane j begins at pack j")):
        x0, y0, size = 60 + 350 * k, 66, 30
        f.text(x0 + 4 * size, 24, title, "head")
        f.text(x0 + 4 * size, 54, "packs of 16 bytes, 4 banks each", "small")
        for lane in range(8):
            f.text(x0 - 10, y0 + lane * size + 19, f"lane {lane}" if k == 0 else f"{lane}", "small", "end")
            for pack in range(8):
                turn = (pack - k * lane) % 8
                f.box(x0 + pack * size, y0 + lane * size, size - 3, size - 3, "none" if turn else "b", f"{turn + 1}", "small")
        turns = "8 places, all 32 banks: 1 turn" if k else "one place, the same 4 banks: 8 turns"
        f.text(x0 + 4 * size, y0 + 8 * size + 22, turns, "small")
    f.text(360, 360, "a row is a key, a lane's; numbers say in which order it reads the packs, orange is the first", "small")
    return f


def quarters():
    f = Figure(740, 330, "S = Q times K transposed on a tensor core: which lane holds what of A, of B and of C")
    size, top, lane = 12, 104, 5
    g, t = lane // 4, lane % 4

    def matrix(x, y, rows, columns, kind, mine):
        for row in range(rows):
            for col in range(columns):
                f.box(x + col * size, y + row * size, size - 2, size - 2, kind if mine(row % 8, col % 8) else "none")
        for row in range(8, rows, 8):
            f.arrow(x - 4, y + row * size - 1, x + columns * size + 2, y + row * size - 1, False)
        for col in range(8, columns, 8):
            f.arrow(x + col * size - 1, y - 4, x + col * size - 1, y + rows * size + 2, False)

    pair = lambda row, col: row == g and col // 2 == t
    f.text(116, 24, "A: 16 rows of Q", "head")
    f.text(116, 44, "16 of their columns", "small")
    f.text(300, 24, "B: Kᵀ", "head")
    f.text(300, 44, "8 keys, a column each", "small")
    f.text(444, 24, "C: S", "head")
    f.text(444, 44, "16 rows, 8 keys", "small")
    matrix(20, top, 16, 16, "a", pair)
    matrix(252, top, 16, 8, "b", lambda row, col: col == g and row // 2 == t)
    matrix(396, top, 16, 8, "c", pair)
    f.text(232, top + 100, "×", "head")
    f.text(372, top + 100, "=", "head")
    for i, (x, y) in enumerate(((68, 88), (68, 314), (164, 88), (164, 314))):
        f.text(x, y, f"a[{i}]", "small")
    f.text(300, 88, "b0", "small")
    f.text(300, 314, "b1", "small")
    f.text(444, 88, "c[0], c[1]", "small")
    f.text(444, 314, "c[2], c[3]", "small")
    for i, words in enumerate((f"coloured: lane {lane} = 4 · {g} + {t}", "g = 1: the row", "t = 1: the pair of columns", "",
                               "in B they change places:", "g the column, t the rows")):
        f.text(520, top + 20 + 20 * i, words, "small", "start")
    return f


def served():
    f = Figure(720, 250, "A fragment of K serves one product in step 20, and two in step 21")
    for k, (title, parts) in enumerate((("step 20: 16 rows a warp", 1), ("step 21: 32 rows a warp", 2))):
        x0 = 30 + 350 * k
        f.text(x0 + 150, 24, title, "head")
        for n in range(4):
            f.box(x0 + 90 + 54 * n, 48, 46, 40, "b", f"K {n}", "small")
            for part in range(parts):
                f.box(x0 + 90 + 54 * n, 104 + 54 * part, 46, 46, "c", "S", "math")
        for part in range(parts):
            f.box(x0 + 14, 104 + 54 * part, 46, 46, "a", f"Q {part}", "small")
        f.text(x0 + 150, 232, ("4 loads of K for 4 products", "4 loads of K for 8 products")[k], "small")
    return f


def folded():
    f = Figure(720, 214, "What is computed for a score on the way to its weight: four instructions, or two")

    def chain(y, title, steps):
        f.text(24, y - 12, title, "head", "start")
        for i, (words, kind) in enumerate(steps):
            x = 24 + 136 * i
            f.box(x, y, 112, 36, kind, words, "small")
            if i + 1 < len(steps):
                f.arrow(x + 114, y + 18, x + 134, y + 18)

    chain(50, "until now", (("s", "none"), ("s · σ", "b"), ("− m", "b"), ("· log₂ e", "b"), ("2ˣ", "c")))
    chain(142, "folded", (("s", "none"), ("s · c − c m", "b"), ("2ˣ", "c")))
    f.text(440, 165, "c = σ log₂ e, and c m once a row", "small", "start")
    f.text(24, 204, "orange: multiplications and additions; green: the exponential unit", "small", "start")
    return f


def pipeline():
    f = Figure(720, 268, "Copies and products, one after the other and one beside the other")
    width = 84

    def track(y, name, first, step, kinds):
        f.text(112, y + 21, name, "", "end")
        for n in range(4):
            x = 126 + (first + n * step) * width
            if x + width < 700:
                f.box(x, y, width - 6, 32, kinds[n % 2], f"tile {n}", "small")

    def barriers(y, count):
        for i in range(count):
            f.arrow(123 + (i + 1) * width, y - 4, 123 + (i + 1) * width, y + 74, False)

    f.text(126, 22, "step 19: a warp that copies does not multiply", "head", "start")
    track(34, "copies", 0, 2, "aa")
    track(72, "products", 1, 2, "aa")
    barriers(34, 6)
    f.text(126, 146, "step 20: the next tile travels meanwhile", "head", "start")
    track(158, "copies", 0, 1, "ab")
    track(196, "products", 1, 1, "ab")
    barriers(158, 4)
    f.text(370, 258, "blue: place 0, orange: place 1; a line is a barrier: two a tile, then one", "small")
    return f


def ring():
    f = Figure(740, 368, "A ring of two places: full barriers let products begin, empty barriers let the next copy be asked for")
    left, width = 136, 118
    for y, name in ((73, "thread 0 asks"), (137, "copy engine"), (241, "products")):
        f.text(left - 20, y, name, "", "end")

    def waits(x, y, barrier, parity):
        f.text(x, y, barrier, "small")
        f.text(x, y + 16, f"parity {parity}", "small")

    for n in range(5):
        x, kind = left + n * width, "ab"[n % 2]
        waits(x + 15, 24, f"empty {n % 2}", 1 - n // 2 % 2)
        f.box(x, 54, 30, 28, kind, f"{n}", "small")
        f.arrow(x + 15, 84, x + 15, 110)
        f.box(x, 114, width - 30, 34, kind, f"{n} → place {n % 2}", "small")
        if n < 4:
            f.arrow(x + width - 34, 150, x + width + 6, 214)
            f.box(x + width, 218, width - 30, 34, kind, f"with {n}", "small")
            waits(x + width + 44, 270, f"full {n % 2}", n // 2 % 2)
        if n < 3:  # what leaves place n % 2 lets in what comes next there
            f.arrow(x + 2 * width - 27, 224, x + 2 * width - 4, 78)
    f.text(370, 318, "blue: place 0, orange: place 1; tile n is in round n / 2 of its place", "small")
    f.text(370, 338, "0 and 1 need not wait for a place; 2 waits until the products with 0 are over", "small")
    f.text(370, 358, "thread 0, which multiplies like the others, asks for n + 1 when n is there", "small")
    return f


def edge():
    f = Figure(740, 354, "A box that hangs over the last row of a head: what lies beyond arrives as zeros, not as the next head")
    rows = ["head 0, row 959", "head 0, rows 960–998", "head 0, row 999",
            "head 1, row 0", "head 1, row 1", "head 1, rows 2–23", "head 1, row 24"]
    zeros = ["a row of zeros", "a row of zeros", "22 rows of zeros"]
    for x, title, end in ((14, "rows of all heads in one dimension", False), (386, "rows and heads apart", True)):
        f.text(x + 170, 24, title, "head")
        for i, words in enumerate(rows):
            f.box(x, 44 + 24 * i + (80 if end and i > 2 else 0), 152, 20, "a" if i < 3 else "b", words, "small")
        f.box(x - 6, 66, 164, 24 * 5, "none")
        f.arrow(x + 160, 126, x + 184, 126)
        for i, words in enumerate(rows[1:3] + (zeros if end else rows[3:6])):
            f.box(x + 188, 68 + 24 * i, 152, 20, "a" if i < 2 else "none" if end else "b", words, "small")
    f.text(184, 326, "the box takes rows of the next head: for V even", "small")
    f.text(184, 344, "a weight of 0 times NaN is NaN", "small")
    f.text(556, 326, "the box ends where its dimension does:", "small")
    f.text(556, 344, "zeros, and no if in any copy", "small")
    return f


def descriptors():
    f = Figure(740, 560, "One wgmma: descriptors find its operands, and its result is spread over registers")
    width, height = 26, 20

    def panel(x, y, kind, coloured):
        """64 rows of 64 columns, in cells of 8 x 16; coloured(row, col) are what one product takes."""
        for row in range(8):
            for col in range(4):
                f.box(x + width * col, y + height * row, width - 2, height - 2, kind if coloured(row, col) else "none")
        for row in range(1, 8):
            f.arrow(x - 2, y + height * row - 1, x + 4 * width, y + height * row - 1, False)

    def result(y, name):
        f.text(610, y - 20, name, "head")
        for w in range(4):
            f.box(520, y + 40 * w, 180, 38, "c", f"warp {w}: rows {16 * w} to {16 * w + 15}", "small")

    top, low = 44, 304
    for x, name, kind in ((60, "A: Q, 64 rows × 16", "a"), (300, "B: K, N rows × 16", "b")):
        f.text(x + 51, 24, name, "head")
        panel(x, top, kind, lambda row, col: col == 1)
    f.text(231, top + 180, "a panel: 64 columns, 128 bytes a row", "small")
    f.text(231, top + 198, "descriptor + 2: the next 16 columns", "small")
    result(top, "D: S, 64 × N in fp32")
    f.text(231, top + 85, "×", "head")
    f.text(465, top + 85, "→", "head")
    f.arrow(416, top + 9, 416, top + 9 + height)
    f.text(426, top + 23, "stride offset", "small", "start")

    f.text(111, low - 20, "A: P, 64 × 16", "head")
    f.box(98, low, width, 158, "a")
    f.text(111, low + 180, "in registers,", "small")
    f.text(111, low + 198, "where S was", "small")
    f.text(355, low - 20, "B: V, 16 rows × N", "head")
    for x in (246, 360):
        panel(x, low, "b", lambda row, col: row in (2, 3))
    f.arrow(250, low + 170, 362, low + 170)
    f.text(355, low + 188, "leading offset: to the next panel", "small")
    f.text(355, low + 206, "descriptor + 128: the next 16 rows", "small")
    result(low, "D: O, 64 × N in fp32")
    f.text(204, low + 85, "×", "head")
    f.text(490, low + 85, "→", "head")
    f.text(610, low + 180, "as with mma.sync: a lane has two of", "small")
    f.text(610, low + 198, "every 8 columns, in rows g and g + 8", "small")
    f.text(370, 548, "a cell: 8 rows × 16 columns; a line every 8 rows, 1024 bytes; blue, orange: what a product takes", "small")
    return f


def gantt():
    f = Figure(740, 348, "Tiles on two SMs: a block for each tile, blocks that stay, and tiles that whoever is free takes")
    unit, left = 26, 130

    def rows(y, rows, gap, note, numbers=False):
        for i, pieces in enumerate(rows):
            f.text(left - 12, y + 14 + 22 * i, f"SM {i}", "small", "end")
            x = left
            for length, kind in pieces:
                f.box(x, y + 22 * i, length * unit - 3, 18, kind, str(length) if numbers else "", "small")
                x += (length + gap) * unit
        f.text(left + 12.6 * unit, y + 25, note, "small", "start")

    for y, words in (28, "a block for each tile, no mask"), (114, "a block that stays"), (200, "causal, tiles of 6 to 1"):
        f.text(16, y, words, "head", "start")
    both = [[(4, "a")] * 2, [(4, "b")] * 2]
    rows(37, both, 0.8, "each begins alone, ends alone")
    rows(123, both, 0.4, "the producers are ahead")
    rows(209, [[(6, "a"), (4, "a"), (2, "a")], [(5, "b"), (3, "b"), (1, "b")]], 0, "every second tile: 12 and 9", True)
    rows(265, [[(6, "a"), (3, "b"), (2, "a")], [(5, "b"), (4, "a"), (1, "b")]], 0, "whoever is free: 11 and 10", True)
    f.arrow(left, 322, left + 12 * unit, 322)
    f.text(left + 12.6 * unit, 327, "time", "small", "start")
    f.text(left, 342, "colour: whose tile it is if each SM takes every second one", "small", "start")
    return f


def seam():
    f = Figure(740, 316, "The border of two tiles: in step 30 the consumers drain, in step 31 the next scores are made beside "
                         "the last P V")
    left, unit, height = 112, 62, 24
    plays = ((36, "step 30", "O leaves, then Q′ comes",
              (("S0", 0, "a"), ("PV1", 0.5, "a"), ("PV0", 2.1, "a"), ("S3′", 5.0, "b"), ("S2′", 7.0, "b"), ("PV3′", 7.5, "b")),
              ((0.55, "a", "softmax 0"), (5.55, "b", "softmax 3′"), (7.55, "b", "2′")), (2.65, "O leaves"), (3.9, "Q′ comes")),
             (182, "step 31", "Q′ has a place of its own, and O a box",
              (("S0", 0, "a"), ("PV1", 0.5, "a"), ("S3′", 2.1, "b"), ("PV0", 2.6, "a"), ("S2′", 4.2, "b"), ("PV3′", 4.7, "b"),
               ("S1′", 6.3, "b"), ("PV2′", 6.8, "b")),
              ((0.55, "a", "softmax 0"), (2.65, "b", "softmax 3′"), (4.75, "b", "softmax 2′"), (6.85, "b", "softmax 1′")),
              (3.9, "O leaves"), (0, "Q′ comes")))
    for y, head, words, products, softmax, results, queries in plays:
        f.text(14, y - 14, head, "head", "start")
        f.text(left, y - 14, words, "small", "start")
        for i, name in enumerate(("products", "softmax", "copies")):
            f.text(left - 12, y + 17 + (height + 6) * i, name, "small", "end")
        for name, at, kind in products:
            f.box(left + unit * at, y, unit * 0.5 - 2, height, kind, name, "small")
        for at, kind, name in softmax:
            width = 0.95 if at > 7.5 else 1.5
            f.box(left + unit * at, y + height + 6, unit * width - 2, height, kind, name, "small")
        for (at, name), kind in ((results, "a"), (queries, "b")):
            f.box(left + unit * at, y + 2 * (height + 6), unit * 1.2 - 2, height, kind, name, "small")
    f.text(left, 306, "blue: this tile, orange: the next. One warpgroup; others use the tensor cores between", "small", "start")
    return f


def sharing():
    f = Figure(740, 318, "Shared memory of an SM at heads of 128: two blocks of one warpgroup with tiles of their own, or one of "
                         "three that share them")
    for x, head, blocks, groups, keys in ((14, "step 26: two blocks of one warpgroup", 2, 1, 64),
                                          (386, "step 27: one block of three", 1, 3, 128)):
        f.text(x + 170, 22, head, "head")
        f.box(x, 34, 340, 226, "none")
        for b in range(blocks):
            left, width = x + 12 + 162 * b, 316 if blocks == 1 else 154
            for g in range(groups):
                f.box(left + 107 * g, 48, 102 if groups > 1 else width, 34, "a", "Q, 64 rows", "small")
            for i, name in enumerate(("K", "V")):
                for stage in range(2):
                    half = (width - 6) / 2
                    f.box(left + (half + 6) * stage, 122 + 64 * i, half, 26 * keys / 64, "b", f"{name}, {keys}", "small")
            for g in range(groups):
                at = left + 107 * g + 51 if groups > 1 else left + width / 2
                f.arrow(at, 118, at, 86)
    f.text(184, 282, "a tile of K and V: 32 KiB, read for 64 queries", "small")
    f.text(556, 282, "a tile of K and V: 64 KiB, read for 192 queries", "small")
    f.text(184, 302, "in all 160 KiB", "small")
    f.text(556, 302, "in all 176 KiB", "small")
    return f


def bound():
    f = Figure(740, 336, "Sums of blocks against the bound: one exceeds it, and is computed again with a new maximum")
    floor, top = 210, 60
    f.arrow(60, floor, 700, floor, False)
    f.add(f'<path d="M60 {top + 30} L700 {top + 30}" class="line" stroke-dasharray="6 5"/>')
    f.text(52, top + 35, "2¹⁴", "small", "end")
    f.text(52, floor + 5, "0", "small", "end")
    heights = (26, 40, 18, 170, 34, 52)
    for i, h in enumerate(heights):
        x = 84 + 104 * i
        f.box(x, floor - h, 28 if h > 150 else 60, h, "b" if h > 150 else "a" if i < 3 else "c")
        f.text(x + 30, floor + 20, f"block {i}", "small")
        f.text(x + 30, floor + 38, "m = c r₀" if i < 3 else "c r₀, then c r₃" if i == 3 else "m = c r₃", "small")
    f.text(114, floor + 54, "found here", "small")
    f.box(84 + 104 * 3 + 32, floor - 44, 28, 44, "c")
    f.text(84 + 104 * 3 + 40, 48, "computed again,", "small", "start")
    f.text(84 + 104 * 3 + 40, 66, "m = c times the row's maximum by now", "small", "start")
    f.text(370, 292, "a lane's sum of 2^(c s − m) in a block (not to scale: mostly it is below 32)", "small")
    f.text(370, 310, "from block 1 on: below the bound nothing is compared, found or rescaled", "small")
    f.text(370, 328, "above it the warpgroup repairs: S once more, a new m for the rows that need it, O and l rescaled", "small")
    return f


def cache():
    f = Figure(740, 250, "One query against a cache: each query of a head reads the cache once, and a thread owns a head")
    f.text(110, 24, "one thread a head", "head")
    f.text(470, 24, "pieces of a head, a thread each", "head")
    f.box(20, 50, 30, 22, "a", "q")
    f.text(35, 90, "1 query", "small")
    f.arrow(54, 61, 78, 61)
    f.box(82, 44, 140, 34, "b", "K, V: L keys")
    f.text(152, 98, "thread 0", "small")
    for i in range(1, 4):
        f.box(82, 92 + i * 28, 140, 20, "none", "thread %d: idle" % i, "small")
    f.text(152, 232, "L keys, one after the other", "small")
    f.box(300, 50, 30, 22, "a", "q")
    f.arrow(334, 61, 358, 61)
    for i in range(4):
        x = 362 + i * 82
        f.box(x, 44, 74, 34, "b", "L / 4")
        f.text(x + 37, 98, "thread %d" % i, "small")
        f.arrow(x + 37, 104, x + 37, 126)
        f.box(x, 130, 74, 26, "c", "m, l, o")
        f.arrow(x + 37, 158, 524 + (i - 1.5) * 12, 192)
    f.box(470, 196, 110, 26, "c", "m, l, o")
    f.text(525, 242, "merged in the order of the pieces: O = o / l", "small")
    return f


def group():
    f = Figure(740, 210, "Four heads of Q share a head of K and V: a key that was loaded is multiplied with four queries")
    f.text(150, 24, "a query at a time", "head")
    f.text(540, 24, "the queries of a group", "head")
    for i in range(4):
        f.box(20, 44 + i * 36, 90, 24, "a", "q of head %d" % i, "small")
        f.arrow(114, 56 + i * 36, 128, 56 + i * 36)
        f.box(132, 44 + i * 36, 150, 24, "b", "all keys and values")
        f.box(380, 44 + i * 36, 90, 24, "a", "q of head %d" % i, "small")
        f.arrow(474, 56 + i * 36, 528, 110)
    f.text(150, 202, "each number read 4 times", "small")
    f.box(532, 98, 150, 24, "b", "all keys and values")
    f.text(540, 202, "each number read once, used 4 times", "small")
    return f


def beside():
    f = Figure(740, 236, "Rows merged one after the other by all warps together, and side by side, four columns a thread")
    f.text(180, 24, "a row after the other", "head")
    f.text(560, 24, "side by side", "head")
    for row in range(4):
        kind, y = "abca"[row], 44 + 40 * row
        f.text(52, y + 19, f"turn {row}", "small", "end")
        f.box(60, y, 160, 28, kind, f"row {row}: pieces", "small")
        f.box(224, y, 84, 28, kind, "the warps'", "small")
        f.box(440 + 60 * row, 44, 56, 28, kind, f"row {row}", "small")
    f.text(432, 63, "turn 0", "small", "end")
    f.text(184, 218, "a wait for memory, and a barrier, in each turn", "small")
    f.text(560, 92, "32 threads each, four columns a thread:", "small")
    f.text(560, 110, "they wait together, and need no barrier", "small")
    f.text(560, 150, "parts in memory:", "small")
    for piece in range(3):
        for row in range(4):
            f.box(440 + 82 * piece + 19 * row, 162, 17, 24, "abca"[row], str(row), "small")
        f.text(440 + 82 * piece + 37, 204, f"piece {piece}", "small")
    f.text(560, 224, "a row's parts lie four apart", "small")
    return f


def handed():
    f = Figure(740, 286, "Scores made by a tensor core: in shared memory each lane finds those of its keys, of every row")
    size, y0 = 11, 58
    for x0, head in ((20, "Q Kᵀ: who has made them"), (450, "who needs them")):
        f.text(x0 + 8 * size + (20 if x0 == 20 else 30), 24, head, "head")
        for row in range(16):
            for key in range(16):
                made = row % 8 == 1 and key % 8 // 2 == 2
                kind = ("b" if made else "none") if x0 == 20 else ("none" if row > 7 else "a" if key % 2 == 0 else "c")
                f.box(x0 + key * size, y0 + row * size, size - 2, size - 2, kind)
        f.text(x0 + 8 * size, y0 - 8, "16 keys", "small")
        f.text(x0 + 16 * size + 6, y0 + 4 * size + 4, "rows 0 to 7:" if x0 == 450 else "", "small", "start")
        f.text(x0 + 16 * size + 6, y0 + 5.5 * size + 6, "the group" if x0 == 450 else "", "small", "start")
        f.text(x0 + 16 * size + 6, y0 + 12 * size + 4, "not there" if x0 == 450 else "", "small", "start")
    f.arrow(214, y0 + 8 * size, 432, y0 + 8 * size)
    f.text(322, y0 + 8 * size - 12, "16 x 16 floats", "small")
    f.text(322, y0 + 8 * size + 20, "in shared memory", "small")
    f.text(14, 256, "lane 6 has eight, of rows 1 and 9", "small", "start")
    f.text(560, 256, "blue: lanes 0 to 15, green: 16 to 31,", "small")
    f.text(560, 274, "all rows of every other key", "small")
    return f


def drifting():
    f = Figure(740, 244, "Four warps of a block, each with a tile of its own: while some wait for copies others multiply")
    left, unit = 110, 30
    f.text(left + 10 * unit, 22, "no barrier: each warp has its own tile, and its own turn", "head")
    for warp in range(4):
        y, x = 38 + 40 * warp, left + unit * warp * 1.1
        f.text(left - 14, y + 20, f"warp {warp}", "", "end")
        while x < left + 20 * unit:
            for words, length, kind in (("copy, and wait", 3.4, "a"), ("", 1.0, "b")):
                width = min(length * unit, left + 20 * unit - x)
                if width > 3:
                    f.box(x, y, width - 3, 30, kind, words if width > 90 else "", "small")
                x += length * unit
    f.arrow(left, 206, left + 20 * unit, 206)
    words = "time; orange: multiplies a tile of 16 keys; the warp's next tile begins 64 keys further on"
    f.text(left + 10 * unit, 230, words, "small")
    return f


def three_places():
    f = Figure(740, 330, "A tile at a time: nothing travels during products. A ring of three places: something always travels")
    left, unit = 126, 58

    def track(y, name, parts):
        f.text(left - 14, y + 20, name, "", "end")
        for start, length, kind, words in parts:
            f.box(left + start * unit, y, length * unit - 4, 30, kind, words, "small")

    f.text(left, 22, "step 39: a warp copies, waits and multiplies in turn", "head", "start")
    track(34, "copies", [(4 * n, 3, "a", f"tile {n}") for n in range(2)] + [(8, 2.2, "a", "tile 2")])
    track(70, "products", [(4 * n + 3, 1, "a", str(n)) for n in range(2)])
    f.text(left, 136, "step 40: a ring of three places", "head", "start")
    starts = (0, 0, 3, 4, 6, 7, 9)
    for place, kind in enumerate("abc"):
        track(148 + 34 * place, f"place {place}",
              [(starts[n], min(3, 10.2 - starts[n]), kind, f"tile {n}") for n in range(place, 7, 3) if starts[n] < 10])
    track(254, "products", [(start, 1, "abc"[n % 3], str(n)) for n, start in enumerate((3, 4, 6, 7, 9))])
    f.text(370, 310, "time goes to the right; a copy begins when the tile before it in its place has been multiplied", "small")
    return f


def exchanged():
    f = Figure(740, 250, "D as a sum over keys, of a row of P and one of dP; and as a sum over dims, of a row of dO and one of O")
    for x0, head, names, count, size, kind, words in (
            (20, "over the keys: after P and dP", ("P", "dP"), 14, 23, "b", "L numbers each, made first and kept"),
            (470, "over the dims: before them", ("dO", "O"), 5, 23, "a", "d numbers each, there already")):
        f.text(x0 + 150 if x0 == 20 else x0 + 110, 24, head, "head")
        for line, name in enumerate(names):
            y = 52 + 44 * line
            f.text(x0 + 22, y + 17, name, "math", "end")
            for i in range(count):
                f.box(x0 + 32 + i * size, y, size - 3, 24, kind)
        f.text(x0 + 32 + count * size / 2, 92 - 4 + 1, "×", "small")
        f.arrow(x0 + 32 + count * size / 2, 124, x0 + 32 + count * size / 2, 150)
        f.box(x0 + 32 + count * size / 2 - 20, 154, 40, 28, "c", "D", "math")
        f.text(x0 + 32 + count * size / 2, 206, words, "small")
    f.text(430, 172, "=", "head")
    f.text(370, 238, "a query has one D; each of its elements of dS is P (dP − D)", "small")
    return f


def walk():
    f = Figure(740, 286, "A block of keys walks over its queries: P stays in the block, dS goes to memory, for dQ")
    size, x0, y0 = 26, 150, 62
    f.text(x0 + 3 * size, 24, "a block of keys walks down", "head")
    for i in range(6):
        for j in range(6):
            kind = "c" if j == 3 and i < 4 else "b" if (i, j) == (4, 3) else "none"
            f.box(x0 + j * size, y0 + i * size, size - 3, size - 3, kind)
    f.text(x0 - 12, y0 + 3 * size, "queries", "small", "end")
    f.text(x0 + 3.45 * size, y0 + 6 * size + 14, "keys", "small")
    f.text(x0 + 3 * size, y0 + 6 * size + 32, "dV += Pᵀ dO, dK += dSᵀ Q, in registers", "small")
    f.arrow(x0 + 4 * size + 4, y0 + 4.45 * size, 408, y0 + 4.45 * size)
    f.text(360, y0 + 4.45 * size - 10, "dS", "math")
    x1 = 420
    f.text(x1 + 3 * size, 24, "dS in memory", "head")
    for i in range(6):
        for j in range(6):
            f.box(x1 + j * size, y0 + i * size, size - 3, size - 3, "b" if i == 2 or (i, j) == (4, 3) else "none")
    f.arrow(x1 + 6 * size + 4, y0 + 2.45 * size, x1 + 6 * size + 40, y0 + 2.45 * size)
    f.text(x1 + 6 * size + 46, y0 + 2.45 * size + 5, "dQ", "", "start")
    f.text(x1 + 3 * size + 30, y0 + 6 * size + 14, "another kernel reads rows: dQ = dS K", "small")
    f.text(370, 276, "P: no memory at all. dS: L² numbers a head, written once and read once", "small")
    return f


def pages():
    f = Figure(740, 330, "Room for the longest in each sequence, and pages of a pool with a table that says which are whose")
    f.text(130, 24, "room for the longest", "head")
    f.text(500, 24, "pages of a pool", "head")
    lengths = (4.5, 0.8, 2.3)  # in pages
    for b, (length, kind) in enumerate(zip(lengths, "abc")):
        y = 50 + 44 * b
        f.box(20, y, 220, 28, "none")
        f.box(20, y, 44 * length, 28, kind)
        f.text(20 + 22 * length, y + 19, "%g" % length, "small")
    f.text(130, 196, "15 pages of memory for 7.6 of keys", "small")
    table = ((6, 1, 9, 4, 11), (2,), (0, 7, 5))
    f.text(300, 44, "table", "small", "start")
    owner = {}
    for b, (row, kind) in enumerate(zip(table, "abc")):
        for i in range(5):
            page = row[i] if i < len(row) else None
            f.box(300 + 36 * i, 54 + 36 * b, 36, 28, "none" if page is None else kind, "" if page is None else str(page), "small")
            if page is not None:
                owner[page] = kind, min(1, lengths[b] - i)
    f.text(600, 44, "the pool, K and V alike", "small")
    for page in range(12):
        x, y = 516 + 44 * (page % 4), 54 + 52 * (page // 4)
        f.box(x, y, 40, 28, "none")
        if page in owner:
            kind, part = owner[page]
            f.box(x, y, 40 * part, 28, kind)
        f.text(x + 20, y + 43, str(page), "small")
    f.arrow(484, 104, 508, 104)
    f.text(500, 222, "9 pages; three ends are empty, and three pages free", "small")
    f.text(20, 258, "a tile of keys", "small", "start")
    for i, (page, kind) in enumerate(((6, "a"), (1, "a"), (9, "a"), (4, "a"))):
        x = 120 + 150 * i
        f.box(x, 240, 146, 28, kind)
        for k in range(4):
            f.text(x + 18 + 37 * k, 259, str(4 * page + k), "small")
    f.text(370, 292, "place[key]: where its row begins, looked up once for all heads of Q that share it", "small")
    f.text(370, 314, "(here with pages of 4 keys; each number is a row of the pool)", "small")
    return f


def chain():
    f = Figure(740, 380, "Two products make S and dP, exp makes P, the gradient of softmax dS, three products dV, dQ and dK")
    f.text(185, 24, "L x L, a tile or all of it", "head")
    f.text(615, 16, "gradients", "head")
    f.box(20, 60, 70, 30, "a", "Q, K")
    f.box(20, 200, 70, 30, "a", "dO, V")
    f.box(150, 60, 70, 30, "b", "S")
    f.box(280, 60, 70, 30, "b", "P")
    f.box(150, 200, 70, 30, "b", "dP")
    f.box(280, 200, 70, 30, "b", "dS")
    f.arrow(92, 75, 148, 75)
    f.text(120, 66, "1", "head")
    f.arrow(222, 75, 278, 75)
    f.text(250, 50, "exp(S − lse)", "small")
    f.arrow(92, 215, 148, 215)
    f.text(120, 206, "2", "head")
    f.arrow(222, 215, 278, 215)
    f.arrow(315, 92, 315, 198)
    f.text(322, 150, "dS = P (dP − D + dlse)", "small", "start")
    for y, words, number, start, other in ((75, "dV = Pᵀ dO", "3", 75, "dO"), (195, "dQ = dS K", "4", 209, "K"),
                                           (285, "dK = dSᵀ Q", "5", 221, "Q")):
        f.box(540, y - 15, 150, 30, "c", words)
        f.arrow(352, start, 538, y)
        f.text(445, (start + y) / 2 - 8, number, "head")
        f.box(600, y - 51, 30, 20, "a", other, "small")
        f.arrow(615, y - 30, 615, y - 16)
    for y, words in ((326, "D and dlse are a number a row. D is the sum of P dP over the keys, and of dO O over the dims;"),
                     (344, "dlse is 0 unless the loss depends on lse."),
                     (366, "dQ and dK are multiplied by the scale, as S is. 1 to 5: products of 2 L² d FLOPs each")):
        f.text(20, y, words, "small", "start")
    return f


def owners():
    f = Figure(740, 268, "Who owns a query makes its row of weights, who owns a key its column: each weight is made twice")
    size, y0 = 26, 70
    for x0, head, row, out in ((110, "a query walks over its keys", True, "its dQ"),
                               (450, "a key walks over its queries", False, "its dK and dV")):
        f.text(x0 + 3 * size, 24, head, "head")
        for i in range(6):
            for j in range(6):
                mine = i == 2 if row else j == 3
                kind = "none" if not mine else "b" if (i, j) == (2, 3) else "a" if row else "c"
                f.box(x0 + j * size, y0 + i * size, size - 3, size - 3, kind)
        if row:
            f.box(x0 - 28, y0 + 2 * size, 18, size - 3, "a")
            f.arrow(x0 + 6 * size + 4, y0 + 2.45 * size, x0 + 6 * size + 34, y0 + 2.45 * size)
            f.text(x0 + 6 * size + 40, y0 + 2.45 * size + 5, out, "", "start")
        else:
            f.box(x0 + 3 * size, y0 - 28, size - 3, 18, "c")
            f.arrow(x0 + 3.45 * size, y0 + 6 * size + 2, x0 + 3.45 * size, y0 + 6 * size + 16)
            f.text(x0 + 3.45 * size, y0 + 6 * size + 32, out)
    f.text(110 + 3 * size, y0 + 6 * size + 32, "orange: the same weight, made by both", "small")
    return f


def backward():
    f = Figure(740, 300, "A tile of P and dS is made of rows of Q, dO, K and V; it adds to rows of dQ, dK and dV")
    size, x0, y0 = 30, 250, 70
    f.text(x0 + 3 * size, 24, "keys", "head")
    f.text(x0 - 36, y0 + 18, "queries", "head", "end")
    for i in range(6):
        for j in range(6):
            kind = "b" if (i, j) == (2, 3) else "a" if i == 2 else "c" if j == 3 else "none"
            f.box(x0 + j * size, y0 + i * size, size - 3, size - 3, kind)
    f.box(x0 - 30, y0 + 2 * size, 20, size - 3, "a")
    f.text(x0 - 36, y0 + 2 * size + 18, "Q, dO, lse, D", "small", "end")
    f.box(x0 + 3 * size, y0 - 30, size - 3, 20, "c")
    f.text(x0 + 4 * size + 4, y0 - 16, "K, V", "small", "start")
    f.arrow(x0 + 6 * size + 4, y0 + 2.45 * size, x0 + 6 * size + 50, y0 + 2.45 * size)
    f.text(x0 + 6 * size + 56, y0 + 2.45 * size + 5, "dQ: a sum over the row", "", "start")
    f.arrow(x0 + 3.45 * size, y0 + 6 * size + 2, x0 + 3.45 * size, y0 + 6 * size + 24)
    f.text(x0 + 3.45 * size, y0 + 6 * size + 42, "dK, dV: sums over the column")
    f.text(x0 + 6 * size + 56, y0 + 18, "CPU: who owns the row keeps dQ", "small", "start")
    f.text(x0 + 6 * size + 56, y0 + 36, "and adds to dK and dV of others.", "small", "start")
    f.text(x0 + 6 * size + 56, y0 + 128, "GPU: who owns the column keeps", "small", "start")
    f.text(x0 + 6 * size + 56, y0 + 146, "dK and dV, adds to dQ of others.", "small", "start")
    return f


def rounded():
    f = Figure(740, 396, "A sum of ones in bf16 stops at 256; so sums are fp32: dK and dV in registers, dQ in a workspace")
    line, place = 92, lambda v: 384 + 46 * (v - 256.5)
    f.text(370, 24, "the numbers that bf16 has near 256, and a sum of ones", "head")
    f.arrow(place(250.3), line, place(262.7), line, False)
    for v in (251, 252, 253, 254, 255, 256, 258, 260, 262):
        f.arrow(place(v), line - 6, place(v), line + 6, False)
        f.text(place(v), line + 24, str(v), "small")
    for v in range(252, 257):
        f.add(f'<path d="M{place(v) + 3:g} {line - 10} Q{place(v + 0.5):g} {line - 38} {place(v + 1) - 3:g} {line - 10}" '
              'class="line" marker-end="url(#tip)"/>')
        f.text(place(v + 0.5), line - 30, "+ 1", "small")
    f.text(place(257) + 12, line - 22, "257 is not one of them: it is rounded to 256", "small", "start")

    f.text(370, 154, "who adds up what, at heads of 128 and 8192 tokens", "head")
    f.text(96, 178, "one block of keys, its tiles of queries in turn", "small", "start")
    f.box(88, 186, 432, 52, "none")
    for x, width, words in ((100, 56, "0–15"), (162, 56, "16–31"), (262, 84, "8176–8191")):
        f.box(x, 197, width, 30, "b", words, "small")
    f.text(240, 217, "…")
    f.arrow(350, 212, 386, 212)
    f.box(390, 197, 120, 30, "b", "fp32 in registers", "small")
    for i, words in enumerate(("0–15", "16–31", "…", "8176–8191")):
        y = 272 + 24 * i
        if i == 2:
            f.text(228, y + 12, words)
        else:
            f.box(180, y, 96, 20, "b", words, "small")
            f.arrow(280, y + 10, 386, 303 + 4 * i)
    f.text(170, 299, "512 blocks", "small", "end")
    f.text(170, 317, "of keys, each", "small", "end")
    f.text(170, 335, "in any order", "small", "end")
    f.text(450, 262, "0, by prepare_kernel", "small")
    f.arrow(450, 268, 450, 290)
    f.box(390, 294, 120, 30, "b", "fp32 in memory", "small")
    for y, how, result in ((212, "", "dK, dV in bf16"), (309, "convert_kernel", "dQ in bf16")):
        f.arrow(524 if y == 212 else 514, y, 622, y)
        f.text(573, y - 9, how or "store", "small")
        f.text(573, y + 19, "rounded once", "small")
        f.box(626, y - 15, 108, 30, "a", result, "small")
    f.text(450, 342, "4 bytes an element", "small")
    f.text(680, 342, "2 bytes", "small")
    f.text(370, 388, "orange: terms and sums of 32 bits; a term is what one tile or one block adds", "small")
    return f


def chunks():
    f = Figure(740, 418, "What 32 threads load for eight multiply-adds each: a chunk of 16 bytes for all, or one for each")
    size, height, left = 12, 16, (34, 276, 520)

    def row(x, y, name, marked, kind, count=16, width=size):
        f.text(x - 6, y + 12, name, "small", "end")
        for i in range(count):
            f.box(x + width * i, y, width - 2, height - 2, kind if i in marked else "none")

    for x, head, words, counted in (
            (left[0], "S, dP", "a thread: a key", ("a chunk of Q, the same for all: 1", "32 chunks of K, one for each: 4")),
            (left[1], "dV, dK", "a thread: 64 dims of a key", ("a chunk of dO, the same for all: 1", "P, once for 64 dims")),
            (left[2], "dQ", "a thread: 8 dims of a query",
             ("16 chunks of K, each for two: 2", "dS of two queries: at most 1"))):
        f.text(x + 8 * size, 24, head, "head")
        f.text(x + 8 * size, 46, words, "small")
        for i, word in enumerate(counted):
            f.text(x + 8 * size, 252 + 18 * i, word, "small")
    row(left[0], 66, "Q", {2}, "a")
    for key in range(8):
        row(left[0], 98 + height * key, "K" if key == 0 else "", {2 ^ key}, "b")
    row(left[1], 66, "dO", {2}, "a")
    row(left[1], 98, "P", range(32), "c", 32, 6)
    row(left[2], 66, "K", range(16), "b")
    row(left[2], 98, "dS", {5}, "c", 32, 6)
    row(left[2], 98 + height, "", {5}, "c", 32, 6)
    f.text(370, 310, "accesses of 128 bytes for eight multiply-adds of each thread", "head")
    for y, name, counts in ((326, "step 48", (16, 16, 16, 16, 16)), (362, "step 49", (5, 5, 1, 1, 3))):
        x = 92
        f.text(x - 10, y + 19, name, "", "end")
        for count, kind, words in zip(counts, "abcab", ("S", "dP", "dV", "dK", "dQ")):
            f.box(x, y, 7.6 * count - 2, 28, kind, words if count > 2 else "", "small")
            x += 7.6 * count
        f.text(x + 8, y + 19, str(sum(counts)), "", "start")
    f.text(370, 412, "a square: a chunk of 8 elements in its place; heads of 128, 8 of the 32 keys", "small")
    return f


def scores():
    f = Figure(740, 388, "A tile of 32 x 64 scores: a thread has 16 of one key, or a warp has fragments of 16 keys")
    unit, top = 5, 92

    def panel(left, title, warps, done):
        wide = 64 * unit // len(warps)
        f.text(left + 32 * unit, 24, title, "head")
        f.text(left + 32 * unit, 50, "64 keys", "small")
        for i, words in enumerate(warps):
            f.text(left + wide * (i + 0.5), top - 12, words, "small")
            f.box(left + wide * i, top, wide - 3, 32 * unit, "c" if words == "warp 1" else "none")
        for i, words in enumerate(done):
            f.text(left + 32 * unit, top + 32 * unit + 24 + 18 * i, words, "small")

    panel(66, "step 49: scores, one by one", ("warps 0 and 2", "warps 1 and 3"),
          ("green: warp 0's. S of a warp:", "512 loads of 16 bytes a lane,", "4096 conversions, 2048 multiply-adds"))
    panel(410, "step 50: fragments, by a warp", ("warp 0", "warp 1", "warp 2", "warp 3"),
          ("green: warp 1's. S of a warp:", "24 ldmatrix of 16 bytes a lane,", "32 mma"))
    f.text(56, top + 15 * unit, "32", "small", "end")
    f.text(56, top + 15 * unit + 18, "queries", "small", "end")
    for row in range(0, 32, 2):
        f.box(66, top + unit * row + 0.5, 32 * unit - 3, unit - 1, "c")
        f.box(66 + 5 * unit, top + unit * row, unit, unit, "b")
    for row in (1, 9, 17, 25):
        for key in (2, 3, 10, 11):
            f.box(410 + unit * (16 + key), top + unit * row, unit, unit, "b")
    f.text(370, 352, "orange: the 16 scores of lane 5; it makes P and dS of them, in fp32, and leaves both in shared memory,",
           "small")
    f.text(370, 370, "8 KiB each, where the other three products find them. (Heads of 128)", "small")
    return f


def two_lines(f, upper, lower, across, behind):
    """The gradient's two lines of products. Words beside them, between them (two lines), and below."""
    columns = (20, 122, 300, 478, 620)

    def row(y, warp, a, b, c, w, other, result):
        f.text(20, y - 28, warp, "head", "start")
        f.box(columns[0], y, 70, 44, "a", a)
        f.text(columns[0] + 85, y + 27, "×")
        f.box(columns[1] - 2, y, 70, 44, "c", b)
        f.arrow(columns[1] + 74, y + 22, columns[2] - 84, y + 22)
        f.box(columns[2] - 78, y, 70, 44, "b", c)
        f.arrow(columns[2] - 2, y + 22, columns[2] + 74, y + 22)
        f.box(columns[2] + 80, y, 70, 44, "b", w)
        f.text(columns[3] - 13, y + 27, "×")
        f.box(columns[3] + 2, y, 70, 44, "c", other)
        f.arrow(columns[3] + 78, y + 22, columns[4] - 22, y + 22)
        f.box(columns[4] - 16, y, 100, 44, "a", result)

    row(50, upper, "K", "Qᵀ", "Sᵀ", "Pᵀ", "dO", "dV")
    row(184, lower, "V", "dOᵀ", "dPᵀ", "dSᵀ", "Q", "dK")
    f.text(336, 60, "lse, 2ˣ", "small")
    f.text(336, 194, "P, D", "small")
    f.arrow(415, 98, 352, 178)
    f.text(402, 146, across[0], "small", "start")
    f.text(402, 162, across[1], "small", "start")
    f.arrow(415, 232, 415, 262)
    f.text(415, 280, "dSᵀ of all keys of the block, through shared memory, for dQ += dS K, by all warps", "small")
    f.text(370, 308, f"blue: rows are keys, the {behind} own; green: tiles of queries, which all warps share; "
           "orange: in registers", "small")
    return f


def transposed():
    f = Figure(740, 322, "One warp and its keys: scores transposed, and where each fragment goes")
    return two_lines(f, "a warp: S, P, dV", "the same warp: dP, dS, dK",
                     ("P stays where it is: each lane has", "what it needs of it for dS"), "warp's")


def pairs():
    f = Figure(740, 322, "Two warps that own the same keys: scores transposed, and where each fragment goes")
    return two_lines(f, "the upper warp", "the lower warp",
                     ("P in 16 bits, through shared memory:", "each lane finds what the same lane left"), "pair's")


def warpgroup():
    f = Figure(740, 322, "One warpgroup and its 64 keys: scores transposed, and where each operand of four products is")
    return two_lines(f, "a warpgroup: S, P, dV", "the same warpgroup: dP, dS, dK",
                     ("P stays where it is: each thread has", "what it needs of it for dS"), "warpgroup's")


def begun():
    f = Figure(740, 420, "A block of queries in steps 61 and 62: dP runs while P is made, and the next S and dP begin at the end")
    left, unit = 112, 69
    plays = ((42, "step 61: S and dP are waited for together", 2, 4.3, 6.9),
             (160, "step 62: P is made while dP is computed", 1, 3.1, 5.7))
    for y, words, weigh, given, end in plays:
        f.text(left, y - 14, words, "head", "start")
        for i, name in enumerate(("tensor cores", "threads")):
            f.text(left - 10, y + 18 + 36 * i, name, "small", "end")
        parts = [(0, 1, "a", "S"), (1, 2, "a", "dP"), (given, given + 1, "a", "dV"), (given + 1, given + 2, "a", "dK"),
                 (end, end + 1, "b", "S′"), (end + 1, end + 2, "b", "dP′")]
        for start, stop, kind, name in parts:
            f.box(left + unit * start, y, unit * (stop - start) - 3, 28, kind, name, "small")
        parts = [(0, weigh, "none", "wait"), (weigh, weigh + 1.5, "c", "P"), (weigh + 1.5, given, "c", "dS"),
                 (given, given + 0.4, "c", ""), (given + 0.4, end, "c", "dQ"), (end, end + weigh, "none", "wait")]
        if end + weigh < 8.9:
            parts.append((end + weigh, 8.9, "c", "P′, dS′"))
        for start, stop, kind, name in parts:
            f.box(left + unit * start, y + 36, unit * (stop - start) - 3, 28, kind, name, "small")
        f.arrow(left + unit * (given + 0.4) - 1.5, y + 28, left + unit * (given + 0.4) - 1.5, y + 72, False)
    f.text(370, 262, "blue: products of wgmma, orange: of the next block; empty: waits; a line: the barrier of all,", "small")
    f.text(370, 280, "before which dS goes to shared memory. dQ is by mma.sync. Lengths are drawn by hand, not measured", "small")

    def chain(y, title, steps):
        f.text(left - 10, y + 23, title, "", "end")
        for i, (words, kind, how) in enumerate(steps):
            x = left + 170 * i
            f.box(x, y, 84, 34, kind, words, "small")
            if how:
                f.arrow(x + 88, y + 17, x + 164, y + 17)
                f.text(x + 126, y + 10, how, "small")

    f.text(left, 318, "from V dOᵀ to dS", "head", "start")
    chain(332, "step 61", (("anything", "none", "= V dOᵀ"), ("dP", "a", "− D"), ("dP − D", "c", "× P"), ("dS", "c", "")))
    chain(378, "step 62", (("−D", "none", "+ V dOᵀ"), ("dP − D", "a", "× P"), ("dS", "c", "")))
    return f


def scattered():
    f = Figure(740, 330, "What a warp adds of a fragment: scattered over rows of dQ, or as neighbours")
    size, left, top = 20, 90, 62
    f.add("<style>.d { fill: #8250df33; stroke: #8250df }</style>")
    f.text(left + 4 * size, 24, "sums in rows", "head")
    for row in range(8):
        f.text(left - 10, top + row * size + 14, f"row {row}", "small", "end")
        for col in range(8):
            f.box(left + col * size, top + row * size, size - 2, size - 2, "b" if col % 2 == 0 else "a")
    f.text(left + 4 * size, 50, "8 dims: a sector a row", "small")
    f.text(left + 4 * size, top + 8 * size + 20, "c[0] of 32 lanes: 8 sectors, half of each", "small")
    f.text(left + 4 * size, top + 8 * size + 38, "c[1]: the same sectors once more", "small")
    f.text(left + 4 * size, top + 8 * size + 56, "(c[2], c[3]: rows 8 to 15)", "small")
    x, size = 350, 22
    f.text(x + 8 * size, 24, "sums as the fragment lies", "head")
    f.text(x + 8 * size, 50, "128 numbers, 512 bytes: lane after lane, four each", "small")
    for row in range(8):
        for col in range(16):
            f.box(x + col * size, top + row * 20, size - 2, 18, "bacd"[col % 4])
    f.text(x + 8 * size, top + 180, "one instruction adds all four of all lanes: 16 whole sectors", "small")
    f.text(x + 8 * size, top + 198, "(before sm_90: four instructions, 4 whole sectors each)", "small")
    f.text(370, 318, "orange: c[0], blue: c[1], green: c[2], violet: c[3] of a lane", "small")
    return f


def staggered():
    f = Figure(740, 262, "A step of a pair of warps: dQ of the tile before fills the wait for P")
    left, unit = 122, 64
    upper = ((1.6, "a", "S"), (1.5, "b", "exponentials"), (0.8, "c", "copy"), (1.6, "a", "dV"), (1.9, "c", "dQ of j − 1"))
    lower = ((1.9, "c", "dQ of j − 1"), (1.6, "a", "dP"), (1.3, "b", "dS"), (1.6, "a", "dK"))
    for y, name, parts in ((40, "upper warp", upper), (126, "lower warp", lower)):
        f.text(left - 12, y + 22, name, "", "end")
        at = left
        for width, kind, words in parts:
            f.box(at, y, width * unit - 3, 34, kind, words, "small")
            at += width * unit
    f.arrow(left + 3.1 * unit, 76, left + 3.5 * unit, 122)
    f.text(left + 3.5 * unit + 6, 104, "P, behind a barrier of two", "small", "start")
    for x in (left - 5, left + 7.4 * unit + 3):
        f.arrow(x, 26, x, 172, False)
    f.text(left - 5, 194, "all meet: tile j and dS of j − 1 are there", "small", "start")
    f.text(370, 232, "step j. The copy is of tile j + 1. Lengths are drawn by hand, not measured", "small")
    return f


def turned():
    f = Figure(740, 262, "P of 16 queries and 16 keys in quarters, as it is written, and read turned: two change places")
    left, unit, top = 74, 74, 66

    def quarters(x, title, rows, across, words):
        f.text(x + unit - 2, 24, title, "math")
        f.text(x + unit - 2, 50, across, "small")
        f.text(x - 12, top + unit + 4, rows, "small", "end")
        for i, (kind, word) in enumerate(words):
            f.box(x + i % 2 * unit, top + i // 2 * unit, unit - 4, unit - 4, kind, word, "math")

    kinds = ("a", "b", "c", "none")
    quarters(left, "P", "queries", "keys", list(zip(kinds, "0123")))
    for i, kind in enumerate(kinds):
        f.box(310 + 34 * i, top + 44, 30, 56, kind, str(i), "math")
    f.text(376, top + 20, "shared memory", "small")
    f.arrow(222, top + 72, 296, top + 72)
    f.arrow(456, top + 72, 500, top + 72)
    quarters(572, "Pᵀ", "keys", "queries", [(kinds[i], f"{i}ᵀ") for i in (0, 2, 1, 3)])
    f.text(370, 232, "a quarter: 8 × 8, 128 bytes, a word of each lane", "small")
    f.text(370, 252, "ldmatrix.trans turns each; which of them comes where is a matter of addresses", "small")
    return f


def longest():
    f = Figure(740, 330, "Blocks under a causal mask on seven places: head after head, and the longest of all heads first")
    heads, keys, places, unit = 5, 6, 7, 17

    def run(left, title, blocks):
        f.text(left + 9 * unit, 24, title, "head")
        free = [0] * places
        for head, length in blocks:
            i = free.index(min(free))
            kind = ("a", "b", "c", "none", "a")[head]
            f.box(left + free[i] * unit, 44 + 30 * i, length * unit - 2, 26, kind, str(length), "small")
            free[i] += length
        f.arrow(left + max(free) * unit, 36, left + max(free) * unit, 260, False)
        f.text(left + max(free) * unit, 278, f"{max(free)}", "small")

    run(40, "step 52: head after head", [(h, n) for h in range(heads) for n in range(keys, 0, -1)])
    run(400, "here: the longest first", [(h, n) for n in range(keys, 0, -1) for h in range(heads)])
    f.text(370, 300, "a row: a place on an SM, which takes the next block when it is free. Five heads, four colours, six blocks",
           "small")
    f.text(370, 320, "of keys each; the number: blocks of queries that see its keys. Seven places cannot end before 15", "small")
    return f


def filled():
    f = Figure(740, 386, "A last block is filled up with rows that there are not: their lse is infinite, so P and dS are 0")
    left, unit = 96, 3.1
    f.text(370, 22, "lse and D of two heads of 70 queries, in blocks of 32", "head")
    for y, words, padded in ((46, "step 56", 70), (112, "step 57", 96)):
        f.text(left - 12, y + 20, words, "", "end")
        for head, kind in enumerate("ab"):
            for row in range(0, padded, 32):
                x, rows = left + unit * (padded * head + row), min(32, 70 - row)
                f.box(x, y, unit * rows - 2, 30, kind, f"{row}–{row + rows - 1}" if rows > 6 else "", "small")
                if rows < 32 and padded == 96:
                    f.box(x + unit * rows, y, unit * (32 - rows) - 2, 30, "none", "lse ∞, D 0", "small")
    f.box(left + unit * 64 - 2, 42, unit * 32 + 2, 38, "none")
    f.text(left + unit * 80, 98, "block 2 of head 0: 6 rows of its own, and the loop asks for each row", "small")
    f.text(left + unit * 96, 162, "each block 32 of lse and 32 of −D, 256 bytes in one piece", "small")

    columns = (("Q, dO", 76), ("S, dP", 66), ("lse, −D", 76), ("P", 112), ("dS", 108), ("sums of dQ", 80))
    rows = (("row 69", "a", ("numbers", "S, dP", "lse, −D", "2^(c S − lse)", "P (dP − D)", "+ dS K"), "goes to dQ"),
            ("row 70", "none", ("zeros", "0, 0", "∞, 0", "2^(0 − ∞) = 0", "0 (0 + 0) = 0", "+ 0"), "not read"))
    f.text(370, 208, "what becomes of a row of block 2 of head 0 that is there, and of one that is not", "head")
    for y, (name, kind, words, end) in zip((248, 304), rows):
        f.text(66, y + 20, name, "", "end")
        x = 76
        for (head, width), word in zip(columns, words):
            if kind == "a":
                f.text(x + width / 2, y - 10, head, "small")
            f.box(x, y, width, 30, kind if head != "P" and head != "dS" else "c" if kind == "a" else kind, word, "small")
            x += width + 8
        f.text(x, y + 20, end, "small", "start")
    f.text(370, 360, "cp_async writes the zeros, prepare_kernel ∞ and 0: the loop is the same for all rows", "small")
    return f


def boxes():
    f = Figure(740, 448, "Keys in rows of 256 bytes, or in panels of 128; one thread that asks, a barrier that counts bytes")
    size, height = 20, 17

    def rows(x, y, first, count):
        for row in range(4):
            f.text(x - 8, y + height * row + 13, f"row {row}", "small", "end")
            for place in range(count):
                chunk = first + (place & 8) + (place % 8 ^ row)
                kind = "c" if chunk in (2, 10) else "a" if chunk < 8 else "b"
                f.box(x + size * place, y + height * row, size - 2, height - 2, kind, f"{chunk}", "small")

    f.text(213, 24, "step 57: 64 rows of 256 bytes", "head")
    rows(54, 42, 0, 16)
    for i, words in enumerate(("a number is a chunk, 8 columns, in its place",
                               "green: chunks 2 and 10, here 128 bytes apart, then 8192",
                               "128 threads ask: 8 chunks of K each, and 8 of V")):
        f.text(213, 140 + 20 * i, words, "small")
    f.text(570, 24, "step 58: two panels of 64 rows", "head")
    for panel in range(2):
        rows(480, 42 + 84 * panel, 8 * panel, 8)
        f.text(650, 72 + 84 * panel, f"panel {panel}:", "small", "start")
        f.text(650, 90 + 84 * panel, "8192 bytes", "small", "start")
    f.text(570, 216, "one thread asks: for a box, both panels", "small")

    left, unit = 122, 60

    def track(y, name, parts):
        f.text(left - 12, y + 19, name, "", "end")
        for start, end, kind, words in parts:
            f.box(left + unit * start, y, unit * (end - start) - 4, 28, kind, words, "small")

    f.text(370, 256, "step 58: who waits for what", "head")
    track(272, "thread 0", [(0, 3.9, "a", "expects 16384 bytes, asks for K"), (3.9, 5.7, "b", "the same for V"),
                            (5.7, 6, "none", ""), (6, 8.3, "none", ""), (8.3, 10.2, "c", "products")])
    track(328, "copy engine", [(3.9, 6, "a", "64 keys of K"), (6, 8.3, "b", "64 keys of V")])
    track(384, "127 others", [(0, 6, "none", "wait at the barrier keys"), (6, 8.3, "none", "and at values"),
                              (8.3, 10.2, "c", "products")])
    for asked, begun in ((3.9, 3.9), (5.7, 6)):
        f.arrow(left + unit * asked - 4, 302, left + unit * begun + 6, 326)
    for at in (6, 8.3):
        f.arrow(left + unit * at - 6, 358, left + unit * at - 2, 382)
    f.text(370, 436, "each box, when it comes, counts its bytes off; at 0 the phase ends, and all who wait go on", "small")
    return f


def squares():
    f = Figure(740, 486, "S transposed of 128 keys and 64 queries: tiles of warps, in two blocks, or two squares, in one block")
    top = 96
    for left, title, queries, words, result in (
            (16, "step 59: two blocks on an SM", 32, ("block 0", "block 1"), ("adds to dQ", "of 32 queries", "twice")),
            (382, "step 60: one block on an SM", 64, ("warpgroup 0", "warpgroup 1"), ("adds to dQ", "of 64 queries", "once"))):
        f.text(left + 150, 24, title, "head")
        for at in range(0, 64, queries):
            f.box(left + 92 + 2 * at, 44, 2 * queries - 4, 28, "b", f"Q, {at}–{at + queries - 1}", "small")
        for k in range(2):
            y = top + 160 * k
            f.box(left, y, 84, 124, "a", f"K, {64 * k}–{64 * k + 63}", "small")
            f.text(left + 42, y + 142, words[k], "small")
            for at in range(0, 64, queries):
                for warp in range(4):
                    name = warp + 4 * k if queries == 64 else warp
                    f.box(left + 92 + 2 * at, y + 32 * warp, 2 * queries - 4, 28, "c", f"warp {name}", "small")
            if queries == 32 or k == 0:
                middle = y + 62 if queries == 32 else top + 142
                f.box(left - 8, y - 8, 238, 158 if queries == 32 else 318, "none")
                f.arrow(left + 232, middle, left + 250, middle)
                for i, part in enumerate(result):
                    f.text(left + 258, middle - 13 + 18 * i, part, "small", "start")
    f.text(370, 432, "green: S transposed (heads of 128), keys down and queries across, of which a warp has 16 rows", "small")
    for x, products, visits in ((170, "S: 512 mma.sync, 384 ldmatrix of fragments", 4096),
                                (542, "S: 16 wgmma, and no fragments", 2048)):
        f.text(x, 456, products, "small")
        f.text(x, 474, f"sectors of dQ's sums: {visits} visits", "small")
    return f


def ahead():
    f = Figure(740, 262, "Three places for blocks of Q and dO: what travels, and what is read, around one barrier a step")
    left, unit, barrier = 90, 128, 0.8
    for n in range(5):
        f.text(left + unit * (n + 0.5), 24, f"step {n}", "head")
        f.arrow(left + unit * (n + barrier), 34, left + unit * (n + barrier), 190, False)
    for place in range(3):
        y = 46 + 48 * place
        f.text(left - 12, y + 22, f"place {place}", "", "end")
        for block in range(place, 6, 3):
            asked, begin, end = max(0, block - 2 + barrier) if block > 1 else 0, block, min(5, block + barrier)
            if asked < min(5, begin):
                f.box(left + unit * asked + 3, y, unit * (min(5, begin) - asked) - 6, 34, "c", f"{block} travels", "small")
            if begin < end:
                f.box(left + unit * begin + 3, y, unit * (end - begin) - 6, 34, "a", f"{block} is read", "small")
    f.text(370, 222, "a line: the barrier of all, behind which thread 0 asks for another block", "small")
    f.text(370, 242, "in step n for block n + 2, in the place that block n − 1 left a step ago", "small")
    return f


def across():
    f = Figure(740, 322, "dS of all warpgroups in shared memory; each warpgroup multiplies all of it with its dims of K")

    def product(left, groups, title, unit, turns):
        """K^T, dS^T and dQ^T of so many warpgroups. unit: pixels of 64 keys, queries or dims."""
        top, across = 84, unit * groups
        changes, result = left + across + 24, left + across + unit + 50
        f.text(left + (across + 2 * unit + 50) / 2, 24, title, "head")
        for x, width, words, more in ((left, across, "Kᵀ", f"{64 * groups} keys"), (changes, unit, "dSᵀ", "64 queries"),
                                      (result, unit, "dQᵀ", "in turn" if turns else "64 queries")):
            f.text(x + width / 2 - 2, 52, words, "math")
            f.text(x + width / 2 - 2, 72, more, "small")
        f.text(changes - 14, top + unit / 2, "×")
        f.text(result - 15, top + unit / 2, "=")
        for i in range(groups):
            if not turns or i == 0:
                f.box(left, top + unit * i, across - 4, unit - 4, "none" if turns else "abc"[i], "64 dims", "small")
            f.box(changes, top + unit * i, unit - 4, unit - 4, "abc"[i], "keys", "small")
            gap, words = (10, f"block {i}") if turns else (0, "64 dims")
            f.box(result, top + unit * i + gap, unit - 4, unit - 4 - 2 * gap, "abc"[i], words, "small")

    product(20, 2, "heads of 128: each has its dims", 70, False)
    product(392, 3, "heads of 64: a block each", 58, True)
    f.text(370, 290, "blue, orange, green: warpgroups 0, 1, 2. Each has written dSᵀ of its 64 keys, and behind a barrier reads",
           "small")
    f.text(370, 310, "dSᵀ of all keys. In dQᵀ a colour says who computes it, and in Kᵀ who reads it; empty: who has a turn",
           "small")
    return f


def apart():
    f = Figure(740, 396, "Three warpgroups that meet at one barrier in each step, and three that wait for what they need")
    left, unit, steps = 112, 46, 4
    lengths = ((2, 2, 2, 3.4), (2, 2, 2, 2), (2, 2, 3.4, 2))  # of P and dS, by warpgroup and step

    def play(y, rings):
        """Draws it, and returns when all are through with each block."""
        free, ready = [0.6] * 3, []
        for n in range(steps):
            ends = [begin + row[n] for begin, row in zip(free, lengths)]
            ready.append(max(ends))
            for k in range(3):
                f.box(left + unit * free[k], y + 36 * k, unit * lengths[k][n] - 3, 28, "c", f"P, dS {n}", "small")
                turn = n % 3 == k
                if (turn or not rings) and ready[n] > ends[k]:
                    f.box(left + unit * ends[k], y + 36 * k, unit * (ready[n] - ends[k]) - 3, 28, "none")
                if turn:
                    f.box(left + unit * ready[n], y + 36 * k, unit - 3, 28, "a", f"dQ {n}", "small")
                free[k] = ready[n] + 1 if turn else ends[k] if rings else ready[n]
            if not rings:
                f.arrow(left + unit * ready[n] - 1.5, y - 8, left + unit * ready[n] - 1.5, y + 108, False)
        return ready

    for y, title, rings in ((38, "step 63: all meet when dS is there", False), (194, "step 64: who needs dS waits for it", True)):
        f.text(left + 0.6 * unit, y - 14, title, "head", "start")
        for k in range(3):
            f.text(left - 8, y + 19 + 36 * k, f"warpgroup {k}", "small", "end")
        ready = play(y, rings)
    f.text(left - 8, 321, "producer", "small", "end")
    for n, at in enumerate([0, 0.5, 1, 1.5, *ready[:2]]):
        f.box(left + unit * at, 302, unit / 2 - 3, 28, "b", f"{n}", "small")
    f.text(370, 360, "orange: asks for Q and dO of a block, which have four places: for 4 when all are through with 0", "small")
    f.text(370, 380, "empty: waits; a line: a barrier of all. Heads of 64; lengths are drawn by hand, not measured", "small")
    return f


def outward():
    f = Figure(740, 330, "dQ leaves: each number added by a thread, or all in one piece by the copy engine")
    for left, words in ((20, "step 64: threads add"), (390, "step 65: the copy engine adds")):
        f.text(left + 164, 24, words, "head")
        for i in range(8):
            f.box(left + 41 * i, 62, 38, 30, "a", f"{i}", "small")
        f.text(left + 164, 52, "dQ in registers of 8 warps", "small")
    for i in range(8):
        for j in range(4):
            f.arrow(39 + 41 * i, 94, 24 + 10.3 * (8 * j + i), 226)
            f.box(20 + 10.3 * (8 * j + i), 230, 8, 26, "c")
    f.text(184, 276, "sums of dQ, in L2", "small")
    f.text(184, 296, "256 instructions, each 4 sectors of 32 bytes", "small")
    for i in range(8):
        f.arrow(409 + 41 * i, 94, 409 + 41 * i, 124)
    f.box(390, 128, 325, 26, "b", "dQ in shared memory, as registers lie", "small")
    f.arrow(552, 156, 552, 226)
    f.text(562, 188, "one thread tells", "small", "start")
    f.text(562, 206, "the copy engine", "small", "start")
    f.box(390, 230, 325, 26, "c")
    f.text(552, 276, "sums of dQ, in L2, in the same order", "small")
    f.text(552, 296, "1 instruction, 32 KiB", "small")
    f.text(370, 322, "heads of 128, a block of 64 queries; an arrow on the left is one of many", "small")
    return f


def late():
    f = Figure(740, 316, "dS goes to all warpgroups, dQ is multiplied a block later, and leaves later still")
    left, unit = 112, 104
    parts = ((0.9, "c", "P, dS"), (0.4, "b", "dQ"), (0.4, "a", "dV"), (0.35, "c", "dS"), (0.4, "a", "dK"), (0.35, "c", "dQ"))
    middle = {}
    for k, (y, start) in enumerate(((30, 0), (136, 0.2))):
        f.text(left - 12, y + 20, "warpgroup %d" % k, "", "end")
        for step in range(2):
            at = left + unit * (start + 2.87 * step)
            for i, (width, kind, words) in enumerate(parts):
                f.box(at, y, unit * width, 30, kind, words + "₀₁₂"[step + 1 - (words == "dQ")], "small")
                middle[k, step, i] = at + unit * width / 2
                at += unit * width
    f.box(370, 86, 120, 24, "none", "dS₁, shared", "small")
    for k, (near, far) in enumerate(((60, 84), (136, 112))):  # both warpgroups' dS is there before either multiplies with it
        f.arrow(middle[k, 0, 3], near, 384 + 24 * k, far)
        f.arrow(470, 86 if k == 0 else 110, middle[k, 1, 1] - 4, near + (2 if k == 0 else -2))
    f.text(left - 12, 242, "a producer", "", "end")
    f.box(280, 200, 120, 24, "none", "dQ₀, shared", "small")
    f.arrow(middle[1, 0, 5], 166, 372, 198)
    f.box(640, 222, 84, 30, "none", "adds dQ₀", "small")
    f.arrow(400, 214, 638, 238)
    f.arrow(middle[1, 1, 3], 166, 664, 220)
    f.text(370, 280, "blue, orange: products, on tensor cores; green: threads, who compute, or write to shared memory", "small")
    f.text(370, 300, "one fence, behind dS₂, tells of dS₂ and of dQ₀", "small")
    return f


def queue():
    f = Figure(740, 232, "Four blocks of keys under a mask add to eight blocks of queries, rising and falling: who waits")
    size, queries = 27, 8
    for panel, words in enumerate(("queries rising", "queries falling: step 67")):
        left = 74 + 352 * panel
        f.text(left + 5.5 * size, 24, words, "head")
        for keys in range(4):
            y, late = 40 + 36 * keys, 3 * keys if panel == 0 else keys  # steps
            f.text(left - 8, y + 20, "keys %d" % keys, "small", "end")
            for step in range(late):
                f.box(left + size * step, y, size - 3, 28, "none")
            for step, query in enumerate(range(2 * keys, queries)):
                name = query if panel == 0 else queries - 1 + 2 * keys - query
                f.box(left + size * (late + step), y, size - 3, 28, "b" if name < 2 * keys + 2 else "a", str(name), "small")
    f.text(370, 206, "time goes to the right; empty: waits; a number: adds to this block of queries, after the keys above",
           "small")
    f.text(370, 224, "orange: on the diagonal, where the mask is", "small")
    return f


def ranks():
    f = Figure(740, 250, "Four ranks, the own block and three hops: whose keys each rank has, and which lie behind a causal mask")
    for panel, words in enumerate(("without a mask", "causal")):
        left = 70 + 370 * panel
        f.text(left + 140, 24, words, "head")
        for step in range(4):
            f.text(left + 32 + 72 * step, 52, ("own", "hop 1", "hop 2", "hop 3")[step], "small")
        for rank in range(4):
            f.text(left - 8, 82 + 38 * rank, "rank %d" % rank, "small", "end")
            for step in range(4):
                block = (rank - step) % 4
                kind = "none" if panel and block > rank else "b" if panel and not step else "a"
                words = "not seen" if kind == "none" else "K, V %d" % block
                f.box(left + 72 * step, 62 + 38 * rank, 64, 30, kind, words, "small")
    f.text(370, 234, "a block goes down one row with each hop, and from the last rank to the first; orange: half of it is seen",
           "small")
    return f


def rings():
    f = Figure(740, 290, "A ring of rings: three nodes of four ranks, and when blocks travel within a node and to the next")
    f.text(180, 24, "who sends to whom", "head")
    for node in range(3):
        y = 50 + 74 * node
        f.text(62, y + 20, "node %d" % node, "small", "end")
        for lane in range(4):
            x = 72 + 64 * lane
            f.box(x, y, 42, 30, "a", str(4 * node + lane), "small")
            if lane < 3:
                f.arrow(x + 43, y + 15, x + 63, y + 15)
            if node < 2:
                f.arrow(x + 14, y + 31, x + 14, y + 73)
        f.add('<path d="M%g %g v12 H%g v-11" class="line" marker-end="url(#tip)"/>' % (72 + 64 * 3 + 30, y + 31, 72 + 30))
    f.text(180, 262, "and from node 2 to node 0", "small")
    f.text(550, 24, "when: blocks at rank 4", "head")
    for row, words in enumerate(("computes", "NVLink", "InfiniBand")):
        f.text(412, 77 + 46 * row, words, "small", "end")
    for turn, blocks in enumerate(((4, 7, 6, 5), (0, 3, 2, 1))):
        left = 420 + 156 * turn
        for i, block in enumerate(blocks):
            f.box(left + 38 * i, 58, 36, 28, "a", str(block), "small")
            if i < 3:
                f.box(left + 38 * i, 104, 30, 28, "c", str(blocks[i + 1]), "small")
        f.box(left, 150, 146, 28, "b", "0 comes from node 0" if not turn else "8 by way of node 0", "small")
    f.text(564, 210, "a hop to another node has the time of four passes,", "small")
    f.text(564, 230, "and each rank of the node has a link of its own", "small")
    return f


def zigzag():
    f = Figure(740, 300, "Three ranks under a causal mask: pieces side by side, and pieces from both ends")
    size, of_ranks = 32, ("a", "b", "c")
    panels = ("step 68: neighbours", [0, 0, 1, 1, 2, 2]), ("zigzag: from both ends", [0, 1, 2, 2, 1, 0])
    for panel, (words, owner) in enumerate(panels):
        left, top = 120 + 370 * panel, 58
        f.text(left + 3 * size, 24, words, "head")
        f.text(left + 3 * size, 48, "keys, in six pieces", "small")
        for row in range(6):
            y, kind = top + row * size, of_ranks[owner[row]]
            f.text(left - 10, y + 21, "queries %d" % row, "small", "end")
            for column in range(row):
                f.box(left + column * size, y, size - 3, size - 3, kind)
            x = left + row * size
            f.add(f'<path d="M{x} {y} L{x} {y + size - 3} L{x + size - 3} {y + size - 3} Z" class="{kind}"/>')
            f.text(left + (row + 1) * size + 4, y + 21, "rank %d" % owner[row], "small", "start")
        work = ["%g" % sum(row + 0.5 for row in range(6) if owner[row] == rank) for rank in range(3)]
        f.text(left + 3 * size, top + 6 * size + 22, "rank 0: %s squares, rank 1: %s, rank 2: %s" % tuple(work))
    f.text(370, 294, "a square is a piece of queries that sees a piece of keys; on the diagonal, half of it", "small")
    return f


def matrices():
    f = Figure(740, 300, "Query i makes row i of S, softmax along it makes row i of P, and that weights the values to row i of O")
    row = 168  # of query i

    for x, width, kind, name, size in ((50, 36, "none", "Q", "L × d"), (130, 130, "none", "S", "L × L"),
                                       (370, 130, "none", "P", "L × L"), (560, 36, "b", "V", "L × d"),
                                       (660, 36, "none", "O", "L × d")):
        f.box(x, 110, width, 130, kind)
        f.text(x + width / 2, 100, name, "math")
        f.text(x + width / 2, 258, size, "small")
    f.box(130, 36, 130, 36, "b")
    f.text(120, 60, "Kᵀ", "math", "end")
    for x, width, kind in ((50, 36, "a"), (130, 130, "a"), (370, 130, "c"), (660, 36, "c")):
        f.box(x, row, width, 12, kind)
    f.text(40, row + 11, "i", "math", "end")
    f.box(224, 36, 12, 36, "b")  # a key, and the score that it makes with query i
    f.box(224, row, 12, 12, "b")
    f.text(230, 26, "key j", "small")
    f.arrow(230, 74, 230, row - 2)
    f.arrow(88, row + 6, 128, row + 6)
    f.arrow(262, row + 6, 368, row + 6)
    f.text(315, row - 6, "softmax", "small")
    f.text(315, row + 24, "along the row", "small")
    f.arrow(502, row + 6, 558, row + 6)
    f.text(530, row - 6, "mean of", "small")
    f.arrow(598, row + 6, 658, row + 6)
    f.text(370, 288, "S and P are written and read whole: L × L numbers, where all else has L × d", "small")
    return f


def ends():
    f = Figure(740, 244, "Rows of 19 elements of 16 bits: packs of eight lie where 16 bytes begin, and what is left fills none")
    size, left = 11, 30
    for r in range(3):
        first, y = 19 * r, 44 + 30 * r
        f.text(left + 58 * size + 14, y + 15, "row %d" % r, "small", "start")
        for i in range(first, first + 19):
            whole = i // 8 * 8 >= first and i // 8 * 8 + 8 <= first + 19
            f.box(left + size * i, y, size, 22, "a" if whole else "b")
        for start in range(-(-first // 8) * 8, first + 12, 8):
            if start + 8 <= first + 19:
                f.box(left + size * start, y, 8 * size, 22, "none", "pack")
    for k in range(0, 58, 8):
        f.arrow(left + size * k, 34, left + size * k, 130, False)
    f.text(left + 4 * size, 26, "16 bytes", "small")
    f.text(left, 150, "orange: what fills no pack, at most 14 elements of a row", "small", "start")
    f.box(30, 190, 8 * 14, 24, "a", "8 × 16 bits", "small")
    f.arrow(146, 202, 226, 202)
    f.text(186, 192, "load", "small")
    for i in range(8):
        f.box(230 + 28 * i, 190, 28, 24, "c")
    f.text(230 + 112, 232, "8 floats: the arithmetic of step 06", "small")
    f.arrow(458, 202, 538, 202)
    f.text(498, 192, "round", "small")
    f.box(542, 190, 8 * 14, 24, "a", "8 × 16 bits", "small")
    return f


def lag():
    f = Figure(740, 300, "The maximum rises in small steps; a reference that lags follows only when it is 8 behind")
    maxima, left, step, floor = (2, 5, 5, 8, 9, 9, 12, 13, 13, 15, 15, 15), 60, 44, 236
    place = lambda value: floor - 12 * value
    reference, last = None, None
    f.arrow(left, floor, left, 20)
    f.arrow(left, floor, left + 12.4 * step, floor)
    f.text(left - 10, 30, "log₂", "small", "end")
    f.text(left + 12.6 * step, floor + 5, "tiles", "small", "start")
    for i, m in enumerate(maxima):
        x, before = left + step * i, reference
        reference = m if before is None or m > before + 8 else before
        f.box(x, place(m), step, floor - place(m), "a")
        if before is not None and reference != before:
            f.add(f'<path d="M{x:g} {place(before):g} V{place(reference):g}" class="c" stroke-width="3"/>')
            f.text(x - 6, place(reference) - 6, "O and l are rescaled: once", "small", "end")
        f.add(f'<path d="M{x:g} {place(reference):g} h{step}" class="c" stroke-width="3"/>')
        if last is not None and m > last:
            f.text(x + step / 2, floor + 18, "rises", "small")
        last = m
    f.text(left + 12 * step + 8, place(15) + 5, "the maximum", "small", "start")
    f.text(left + 12 * step + 8, place(12) + 5, "the reference, m", "small", "start")
    f.text(370, 286, "a weight is 2 to the power of score − reference, at most 2⁸; O / l is what it was", "small")
    return f


def roles():
    f = Figure(740, 300, "Producers run ahead as far as there are places; each consumer computes at its own pace")
    left, unit = 130, 60
    lines = (("producer of K", 40, [(0, "K4"), (0.5, "K3"), (1.7, "K2"), (3.8, "K1"), (6.0, "K0")], 0.45, "b"),
             ("producer of V", 84, [(0.25, "V4"), (0.75, "V3"), (3.3, "V2"), (5.4, "V1"), (7.5, "V0")], 0.45, "b"))
    for name, y, copies, width, kind in lines:
        f.text(left - 12, y + 18, name, "", "end")
        for at, words in copies:
            f.box(left + unit * at, y, unit * width, 26, kind, words, "small")
    for k, (y, start) in enumerate(((146, 0.7), (190, 1.0), (234, 0.85))):
        f.text(left - 12, y + 18, "consumer %d" % k, "", "end")
        for i in range(4):
            at, number = start + (2.1 + 0.06 * k) * i, 4 - i
            for offset, width, words, part in ((0, 0.55, "S%d" % number, "a"), (0.55, 0.95, "softmax", "c"),
                                               (1.5, 0.6, "PV%d" % number, "a")):
                f.box(left + unit * (at + offset), y, unit * width, 26, part, words, "small")
    f.text(370, 286, "two places for K and two for V: a copy starts when all consumers have released one", "small")
    return f


def pull():
    f = Figure(740, 330, "Each dy pulls its y up or down from their mean, s, and the more the larger y is")
    y_of, dy = [math.exp(x) / sum(math.exp(v) for v in (1, 3, 2)) for x in (1, 3, 2)], (1, 0, 2)
    s = sum(a * b for a, b in zip(y_of, dy))
    xs, place = (110, 210, 310), lambda v: 220 - 80 * v
    f.text(210, 28, "dy, and its mean", "head")
    f.add(f'<path d="M60 {place(s):g} H360" class="c" stroke-width="3"/>')
    f.text(368, place(s) + 5, f"s = {s:.2f}", "math", "start")
    for x, weight, change in zip(xs, y_of, dy):
        f.add(f'<circle cx="{x}" cy="{place(change):g}" r="{4 + 22 * weight:.3g}" class="b"/>')
        f.arrow(x, place(s) + (-3 if change > s else 3), x, place(change) + (2 if change > s else -2))
        f.text(x, 268, f"dy = {change}", "small")
        f.text(x, 288, f"y = {weight:.2f}", "small")
    f.text(600, 28, "dx = y (dy − s)", "head")
    base = 150
    f.arrow(470, base, 730, base, False)
    for x, weight, change in zip((520, 600, 680), y_of, dy):
        d = weight * (change - s)
        f.box(x - 22, base - 220 * max(d, 0), 44, 220 * abs(d), "a")
        f.text(x, base - 220 * max(d, 0) - 8 if d > 0 else base + 220 * abs(d) + 20, f"{d:+.2f}".replace("-", "−"), "small")
    f.text(600, 288, "they add up to 0", "small")
    f.text(370, 318, "x = (1, 3, 2); a dot is as large as its y: the mean lies where the weight is", "small")
    return f


def sunk():
    f = Figure(740, 292, "Softmax runs beside P V, or is moved below the wait for it, and nothing overlaps")
    left, unit, exps = 110, 68, 1.3

    def lines(y, title, begins):
        """begins: how long after S its softmax begins, in widths of a product, where P V of the block before is under way."""
        f.text(30, y, title, "head", "start")
        f.text(left - 12, y + 34, "products", "", "end")
        f.text(left - 12, y + 74, "softmax", "", "end")
        at = 0.0
        for block in (3, 2, 1):
            f.box(left + unit * at, y + 16, unit, 26, "a", f"S{block}")
            if block < 3:
                f.box(left + unit * (at + 1), y + 16, unit, 26, "a", f"PV{block + 1}")
                f.arrow(left + unit * (at + 2), y + 12, left + unit * (at + 2), y + 88, False)
            at += 1 if block == 3 else begins
            f.box(left + unit * at, y + 56, unit * exps, 26, "c", f"softmax {block}", "small")
            at += exps

    lines(28, "as it is written: softmax waits for S alone", 1)
    lines(158, "as the assembler may order it: below the wait for P V", 2)
    f.text(370, 278, "lines: the wait for P V; products of another warpgroup may fill the gaps", "small")
    return f


def overlap():
    f = Figure(740, 282, "Rank 1 of 3: blocks travel between what is computed, and blocks travel while it is computed")
    left, block, hop = 120, 150, 60
    words = "own block", "block of rank 0", "block of rank 2"
    for y, gap, head in ((38, hop, "step 69: a block travels when it is done with"),
                         (126, 12, "step 70: while it is attended to")):
        f.text(left, y - 14, head, "head", "start")
        f.text(left - 12, y + 19, "rank 1", "small", "end")
        for i in range(3):
            x = left + (block + gap) * i
            f.box(x, y, block, 28, "a", words[i], "small")
            if i == 2:
                continue
            where = (x + block, y) if gap == hop else (x + 16, y + 50)
            f.box(*where, hop, 28, "c", "%d comes" % (0, 2)[i], "small")
            if gap != hop:
                f.arrow(x + 6, y + 28, x + 14, y + 58)
                f.arrow(x + 16 + hop, y + 64, x + block + 6, y + 30)
    f.text(left - 12, 195, "its thread", "small", "end")
    f.text(left + 3 * block + 2 * hop + 10, 57, "time", "small", "start")
    for y, words in ((238, "start: the block is offered to rank 2, and the thread takes the next one from rank 0 as soon as that "
                           "offers it"),
                     (262, "finish: the thread is done, and so is rank 2's with the block: the two rooms for blocks change their "
                           "names")):
        f.text(20, y, words, "small", "start")
    return f


def chains():
    f = Figure(740, 318, "One chain of multiply-adds leaves seven of eight places idle; eight chains fill them")
    left, width = 150, 46

    def units(y, count):
        for unit in range(2):
            f.text(left - 16, y + 40 * unit + 21, f"unit {unit}", "", "end")
            for cycle in range(12):
                chain = cycle % 4 * 2 + unit
                kind, words = ("abc"[chain % 3], f"{chain}") if chain < count else ("none", "")
                f.box(left + cycle * width, y + 40 * unit, width - 6, 32, kind, words, "small")

    f.text(left, 24, "one chain: s = s · a + b must wait four cycles for its s", "head", "start")
    units(36, 1)
    f.text(left, 154, "eight chains, s₀ to s₇: none waits for another", "head", "start")
    units(166, 8)
    f.arrow(left, 262, left + 12 * width - 6, 262)
    f.text(left + 6 * width, 282, "cycles; a number is the chain whose multiply-add begins", "small")
    f.text(left + 6 * width, 304, "3 of 24 places are used, and 24 of 24: latency × units = 4 × 2 chains are enough", "small")
    return f


def waiting():
    f = Figure(740, 268, "Memory is busy all the time, the tensor cores for an eighth of it")
    left, part = 140, 144
    moves = (("S written", "a"), ("S read", "b"), ("P written", "b"), ("P read", "a"))
    f.text(left - 16, 85, "memory", "", "end")
    f.text(left - 16, 145, "tensor cores", "", "end")
    for i, (words, kind) in enumerate(moves):
        f.box(left + i * part, 64, part - 4, 34, kind, words + ": 2L² bytes", "small")
    for i, words in ((0, "QKᵀ"), (3, "PV")):
        f.box(left + i * part, 124, part / 4, 34, "c", words, "small")
        f.box(left + i * part + part / 4, 124, part * 3 / 4 - 4, 34, "none", "waiting", "small")
    f.box(left + part, 124, 2 * part - 4, 34, "none", "nothing to multiply", "small")
    for x, words, span in ((left, "first product", 1), (left + part, "softmax", 2), (left + 3 * part, "second product", 1)):
        f.text(x + span * part / 2, 46, words, "head")
    f.arrow(left, 184, left + 4 * part, 184)
    f.text(left + 2 * part, 206, "time, drawn to scale for d = 64 and an H100: 3 TB/s, 790 TFLOP/s", "small")
    f.text(left + 2 * part, 230, "(2L²d FLOPs a product: in the time of 2L² bytes four times as many could be done)", "small")
    return f


FIGURES = (chains, waiting, merge, shift, tree, stream, lanes, packs, resident, shelf, transports, loops, registers, rotated,
           quarters, fragments, swizzle, pipeline, served, folded, ring, edge, descriptors, sharing, gantt, seam, turned,
           longest, filled, boxes, ahead, squares, bound, cache, group, beside, handed, drifting, three_places, pages, chain,
           exchanged, walk, owners, backward, rounded, chunks, scores, transposed, pairs, scattered, staggered, warpgroup,
           begun, across, apart, outward, late, queue, ranks, rings, zigzag, matrices, ends, lag, roles, pull, sunk, overlap)


def main(words):
    if words not in ([], ["--check"]):
        sys.exit("figures.py: only --check is allowed")
    stale = []
    for draw in FIGURES:
        path, text = os.path.join(HERE, draw.__name__ + ".svg"), str(draw())
        same = os.path.exists(path) and open(path, encoding="utf-8").read() == text
        if words and not same:
            stale.append(draw.__name__)
        elif not same:
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)
    if stale:
        sys.exit(f"docs/figures: not what figures.py draws: {', '.join(stale)}; make figures draws them")


if __name__ == "__main__":
    main(sys.argv[1:])
