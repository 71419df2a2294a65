"""A number is read only where everything beside it is understood."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Set
from fractions import Fraction
from math import factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optional import not_none

from llm.rewards.answers import final_answer, final_number
from llm.rewards.number_grammar import find_last_number

NO_NUMBER = [
    '1/-2', '-(7)', '-{7}', '-[7]', '-((7))', '-( 7 )', '- (7)', r"-\left(7\right)",
    r"-\mathbf{7}", '-|7|', '|-7|', '|\u22127|', 'negative 7', 'Negative $7$', 'minus 7',
    'the answer is minus 7', 'negative (7)', '**- 7**', '+-7', '-+7', '+/-7', '---7', '5 + -7',
    '5 - -7', 'sqrt(2)', 'sqrt 2', 'sqrt{2}', r"\sqrt2", '\u221a(2)', '\u221b8', '\u221a 2',
    'root of 2', 'the square root of 2', 'cube root of 8', '5!', '5 !', '(5)!', '7!!',
    r"0.\overline{3}", r"0.\dot{3}", '0.333...', '0.333\u2026', '0.(3)', '0.3\u0305',
    '0.3\u0307', '2^10', '2^{10}', '2**10', '2 ** 10', '10^x', 'e^{-3}', '2\xb3', '2\u207f',
    'x\xb2', '3\u03c0', '3 \u03c0', r"3\pi", '2pi', '2 pi', '\u03c0/2', 'pi/2',
    r"\frac{\pi}{2}", r"\frac{\sqrt{3}}{2}", r"\frac{x}{7}", r"\frac{7}{x}", r"\frac{1}{-2}",
    r"\dfrac{7}{2\pi}", r"\frac7x", r"\binom{5}{2}", 'log 8', 'log(8)', 'log_2 8', 'log_{2} 8',
    'log2(8)', r"\log 8", r"\log_2 8", 'ln 8', r"\ln{8}", 'sin 30', 'sin(30)', r"\sin 30",
    'cos 2x', 'exp(2)', '3x', '3 x', '2n', '3i', '3+4i', '5x^2', '5e', 'x/2', 'x+2', 'x*2',
    'x * 2', '2*3', '2 * 3', '2 \xd7 3', '2\xb73', '2 x 3', '2 + 3', '2+3', '12 \xf7 4',
    r"12 \div 4", '2(3)', '(2)(3)', '2 (3)', '(1+2)3', r"2\cdot 3", 'f(7)', 'f(2, 7)',
    'C(5,2)', '5 choose 2', '(3, 7)', '[3, 7]', '(7, x)', '[7, \u221e)', r"[7, \infty)",
    r"\{7\}", '{3, 7}', 'x > 7', 'x < 7', '\u2265 7', '\u2264 7', r"x \geq 7", r"x \le 7",
    r"x \neq 7", 'x != 7', 'x \u2260 7', 'x \u2208 {7}', 'less than 7', 'more than 7',
    'at least 7', 'not 7', "isn't 7", '3:4', '3 : 4', '10:30', '2024-05-06', '3 (mod 7)',
    r"3 \pmod{7}", '3 mod 7', '101_2', '101\u2082', '101 in base 2', '1.234,5', '7 squared',
    '7 cubed', '7 factorial', '7 hundred', '7 million', r"7 \text{ million}", '7k', '7M',
    '2 thirds', '3 quarters', '7 and a half', '7 point 5', '7 over 2', '7 divided by 2',
    '7 times 8', '10 to the power of 3', '10 to the 3', '50% of 8', '50 percent of 8',
    'twice 7', 'double 7', 'half of 8', '6 out of 8', '\u230a7.5\u230b',
    r"\lfloor 7.5 \rfloor", r"\lceil 7 \rceil", '7\u2030', '7\xb07', '\u2460', '7\u2460',
    '\u21667', '7/x', '7 / x', '1/2x', '\xbdx', '7-x', '7 - x', '7 + x', '7+', r"7\alpha",
    r"\hat{7}", r"\bar 7", r"\color{red}{7}", '0x1F', '5x10', '7\xa2', '\u22117', '\u222b 7',
    '7\u221a', '7 \u221a2', '7 <x', '7>', '7@', r"-\frac{7}{x}", '{7}{8}', 'x_7 = 2y', '2 +',
    '3 +\n7', '7!\n', '-7!', '(-7)!', '(7)^2', '(7)x', '$7$x', '$7$!', '1-2-3', '\xac7',
    '\xb17', r"\pm 7", '\u22137', '7\xb11', '7 \xb1 1', '5\u20137x',
]  # fmt: skip
NUMBER = {
    '7': "7", '7.': "7", '**7**': "7", '**Answer:** 7': "7", '*7*': "7",
    'The answer is **7**.': "7", '`7`': "7", '"7"': "7", "'7'": "7", '(7)': "7", '[7]': "7",
    'answer (7)': "7", 'x = (7)': "7", '#### 7': "7", 'Answer: 7': "7", 'answer:\n7': "7",
    'Step 2: 7': "7", '\n* 7': "7", '\n+ 7': "7", '1. 7': "7", '$7$': "7", '$$7$$': "7",
    r"\(7\)": "7", r"\[ 7 \]": "7", '\\[\n7\n\\]': "7", r"\text{7}": "7", r"\mathbf{-7}": "-7",
    r"\textbf{Answer: 7}": "7", r"\boxed{7}": "7", '7 cm': "7", '7cm': "7", '7th': "7",
    '7 apples': "7", '7%': "7", '7 %.': "7", '7 people.': "7", '7 a day': "7",
    '7, I think': "7", '7-day': "7", '7 - because': "7", '</b>7': "7", '<b>-7</b>': "-7",
    '=> 7': "7", '-> 7': "7", '\u2192 7': "7", '\u2248 7': "7", '= -7': "-7", ': -7': "-7",
    'is \u22127.': "-7", '\u662f7\u4e2a': "7", '\u7b54\u6848\u662f7\u3002': "7",
    '\u7b54\u6848\uff1a7': "7", 'x = 7;': "7", '7\xb0': "7", r"7^\circ": "7", '7 \xb0C': "7",
    'US$7': "7", '$7': "7", '7 \u20ac': "7", '{"answer": 7}': "7", '7 (seven)': "7",
    '7/2': "7/2", '-7/2': "-7/2", r"-\frac{7}{2}": "-7/2", '7 1/2': "15/2", '-7 1/2': "-15/2",
    '10^{-3}': "1/1000", '2 \xd7 10^3': "2000", '1,234 m': "1234", r"7\text{ cm}": "7",
    r"7\ \text{cm}": "7", r"7\,\mathrm{m/s}": "7", '7 m/s': "7", '7 km/h': "7",
    r"x=7\end{align}": "7", r"&= 7 \\": "7", r"x \approx 7": "7", '2x = 7': "7",
    '2+3 = 5': "5", '2+3=5': "5", '7<|im_end|>': "7", '-7</answer>': "-7", '7\u2014yes': "7",
    '\u20147': "7", '(a) 7': "7", '7...': "7", '"x": 7,': "7", '_7_': "7", '__7__': "7",
    'So $x$ is 7': "7", 'they are 3 and 7': "7", '3 or 7': "7", '(i.e. 7)': "7",
    '7 \u2705': "7", '7\u2713': "7", '7\xbd': "15/2", '7 hours': "7", 'a total of 7': "7",
    '(2) 7': "7", '7\r\n': "7", '\t7\t': "7", '7 \n\n': "7", 'by 7': "7", r"5\% and 7": "7",
    '$5$ - $7$': "7", r"$\boxed{7}$": "7", r"$\textbf{(B)}\ 7$": "7", r"\left(7\right)": "7",
    "7 times a day": "7", "60 square feet": "60", "$5/hour": "5", "76 sixth graders": "76",
    "7 over the year": "7",
}  # fmt: skip


@pytest.mark.parametrize("text", NO_NUMBER, ids=map(ascii, NO_NUMBER))
def test_what_is_not_understood_is_no_number(text):
    """Digits are in each of them, and another number is what they say."""
    assert find_last_number(text) is None
    assert find_last_number(f"So the answer is {text}.") is None
    assert find_last_number(f"The answer: {text}\n") is None


@pytest.mark.parametrize(("text", "value"), NUMBER.items(), ids=map(ascii, NUMBER))
def test_what_stands_beside_numbers_in_answers_is_understood(text, value):
    number = find_last_number(text)
    assert number is not None and number.value == Fraction(value)


@st.composite
def said(draw) -> tuple[str, Fraction | None]:
    """A number in one of many notations, known to the grammar or not, and what it says, by
    arithmetic of its own; None for an irrational one, and for what is no single number."""
    n, m = draw(st.integers(2, 99)), draw(st.integers(2, 99))
    a, small = Fraction(n), draw(st.integers(2, 9))
    period = Fraction(n, 10 ** len(str(n)) - 1)
    return draw(
        st.sampled_from(
            [
                *((f"{word} {n}", -a) for word in ("negative", "minus", "Negative", "MINUS")),
                *((f"{sign}{n}", -a) for sign in "-\u2212\u2013\uff0d"),
                *((f"-{left}{n}{right}", -a) for left, right in ("()", "[]", "{}", ("( ", " )"))),
                *((f"**{sign}{n}**", -a) for sign in ("-", "- ", "\u2212 ")),
                (rf"-\left({n}\right)", -a),
                (f"-(-{n})", a),
                (f"{n}/-{m}", -a / m),
                (rf"\frac{{{n}}}{{-{m}}}", -a / m),
                (rf"-\frac{{-{n}}}{{{m}}}", a / m),
                (f"({n})/({m})", a / m),
                (f"|-{n}|", a),
                *((text, None if round(n**0.5) ** 2 != n else Fraction(round(n**0.5))) for text in (
                    f"sqrt({n})", f"\u221a{n}", rf"\sqrt{{{n}}}", f"square root of {n}",
                )),
                (f"{small}!", Fraction(factorial(small))),
                *((text, a**small) for text in (
                    f"{n}^{small}", f"{n}**{small}", rf"{n}^{{{small}}}", f"({n})^{small}",
                )),
                *((f"{n}{mark}", a**power) for mark, power in (("\u00b2", 2), ("\u00b3", 3))),
                (f"{n} squared", a**2),
                (rf"0.\overline{{{n}}}", period),
                (f"0.({n})", period),
                (f"0.{n}{n}...", period),
                (f"{n}\u03c0", None),
                (f"{n}\\pi", None),
                (f"log {n}", None),
                (f"{n}x", None),
                (f"{n}i", None),
                (f"x > {n}", None),
                (f"({m}, {n})", None),
                *((text, a * m) for text in (
                    f"{n}*{m}", f"{n} * {m}", f"{n}\u00d7{m}", f"{n}({m})", rf"{n} \cdot {m}",
                    f"{n} times {m}",
                )),
                (f"{n} + {m}", a + m),
                (f"{n}+{m}", a + m),
                (f"{n} \u00f7 {m}", a / m),
                (f"{n} over {m}", a / m),
                (f"{n}:{m}", a / m),
                (f"{n}k", a * 1000),
                *((f"{n} {word}", a * 10**size) for word, size in (
                    ("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9),
                )),
                (f"{n} and a half", a + Fraction(1, 2)),
                (f"{n} 1/{m}", a + Fraction(1, m)),
                (f"{n} quarters", a / 4),
                (f"{n}e{small}", a * 10**small),
                (f"{n} x 10^{small}", a * 10**small),
                (rf"10^{{-{small}}}", Fraction(1, 10**small)),
                (f"1.{n + 100},5", None),
            ]
        )
    )  # fmt: skip


@given(
    said=said(),
    before=st.sampled_from(["", "is ", "The answer: ", "x = ", "$", "**", "(", "so\n"]),
    after=st.sampled_from(["", ".", "$", "**", ")", "\n", ", I think", " apples"]),
)
def test_no_notation_is_read_as_another_number(said, before, after):
    """None, or what it says."""
    text, value = said
    number = find_last_number(before + text + after)
    assert number is None or number.value == value


BESIDE = "!^_/|@#~\u00b1\u2213\u00d7\u00f7\u221a\u221b\u222b\u2211\u220f\u00ac\u2264\u2265<>"
BESIDE += "\u2260\u2208\u00b7\u2219\u00b2\u2080\u207f\u0305\u0307\u230a\u2308\u2016\u00a2\u2030"


@pytest.mark.parametrize("mark", BESIDE, ids=ascii)
def test_a_mark_that_may_calculate_makes_a_number_none_before_it_or_after_it(mark):
    if mark not in "_~":  # bold type, and a space of LaTeX
        assert find_last_number(f"is {mark}7") is None
    if mark not in "#_~":
        assert find_last_number(f"is 7{mark}") is None


@given(st.text("0123456789+-*/^_!()[]{}|\\.,:; =<>$%x\u221a\u03c0\n", max_size=30))
def test_any_text_is_read_in_time_without_an_error(text):
    find_last_number(text), final_number(text), final_answer(text)


JOINED = [
    r"-\boxed{7}", r"$-\boxed{7}$", "\u2212$\\boxed{7}$", r"\boxed{7}!", r"\boxed{7}^2",
    r"x/\boxed{7}", r"\sqrt\boxed{7}", r"\boxed{7}\pi", r"negative \boxed{7}", "negative $7$",
    "$7$!", "$7$x", "$x$7", r"-$\sqrt{7}$", r"negative $\sqrt{7}$", r"$7$, or 3x",
]  # fmt: skip


@pytest.mark.parametrize("text", JOINED, ids=map(ascii, JOINED))
def test_what_joins_a_box_or_a_formula_is_not_lost(text):
    """Its content alone would be another number."""
    assert final_answer(text) == ("", None)
    number = final_number(text)
    assert number is None or number.value != 7


@pytest.mark.parametrize(
    "text",
    [
        r"is $\boxed{7}$.",
        r"**\boxed{7}**",
        r"- \boxed{7}",
        r"= \boxed{7} \text{ cm}",
        r"x - 1 = \boxed{7}",
    ],
)
def test_a_box_that_stands_alone_is_read(text):
    assert final_answer(text)[0] == "7" and not_none(final_number(text)).value == 7


# What stands beside a number, and what its value then is, by this table alone.
SIGNS = ["-", "\u2212", "\u2010", "\u2011", "\u2012", "\u2013", "\ufe63", "\uff0d", "&minus;"]
SIGNS += ["&#8722;", "&#x2212;", "&amp;minus;", r"\text{-}", r"\mathrm{-}", r"\textbf{\text{-}}"]
SIGNS += [r"\text{minus }", r"\text{negative }", "{-}", "$-$", r"\(-\)", "**-**", "<b>-</b>"]
SIGNS += ["minus ", "neg. ", "moins ", "menos ", "минус ", "负", "負", "マイナス", r"\textminus "]
SIGNS += ["\u2796", "\u02d7", "\u207b", "\u208b", "\u2296", "\u2500", "\u2015", "\u30fc", "\u301c"]
SIGNS += [r"\minus ", "<mo>-</mo>", "(-)", "[-]", "(minus)", r"{\bf -}", r"\textcolor{red}{-}"]
GAPS = ["", " ", "   ", " " * 90, "\t", "\n", "\r\n", "\n\n\n", "&nbsp;", r"\,", r"\;", r"\ ", "~"]
GAPS += [r"\!", "{}", r"\quad ", r"\hspace{1em}", r"\hspace{1em} ", r"\displaystyle ", "<!-- -->"]
GAPS += [r"\text{}", r"\text{ }", r"\phantom{x} ", "<br>", "<br/>", "\u180e", "\ufeff\u2003"]
ALONE = ["7", "$7$", r"\(7\)", "**7**", "*7*", "<b>7</b>", "<i>7</i>", r"\text{7}", r"\mathbf{7}"]
ALONE += ["{7}", "(7)", "[7]", "`7`", '"7"', "7.0", r"\frac{7}{1}", "\uff17", "<mn>7</mn>", "07"]
ALONE += [r"\boxed{7}", "\n7\n", "$$7$$", r"\[7\]", r"\left(7\right)", "$7", "\U0001d7d5"]
UNICODE = [chr(i) for i in (*range(0x3100), *range(0xA000, 0xAC00), *range(0xFB00, 0x10000))]
UNICODE += [chr(i) for i in (*range(0x1D400, 0x1D800), *range(0x1F300, 0x1FB00), 0xE0001, 0x10FFFF)]
BLANK = [c for c in UNICODE if unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cf", "Cc")]


Said = tuple[str, Set[int | Fraction]]  # a text, and the values that it may be read as


def read(text: str) -> Fraction | None:
    number = final_number(text)
    return None if number is None else number.value


def wrong(cases: Iterable[Said]) -> list[str]:
    """Texts that are read as something else than one of their values."""
    return [
        ascii(t) for t, values in cases if (found := read(t)) is not None and found not in values
    ]


@pytest.mark.parametrize("before", ["", "x = ", "so\n", "是"])
def test_no_sign_is_lost_whatever_stands_between_it_and_its_number(before):
    cases: list[tuple[str, str, str]] = [(s, g, "7") for s in SIGNS for g in GAPS]
    cases += [(s, g, n) for s in SIGNS for g in GAPS[:3] for n in ALONE]
    cases += [(s, g, n) for s in ("-", r"\text{-}") for g in GAPS for n in ALONE]
    cases += [("-", blank, n) for blank in BLANK for n in ("7", "$7$", r"\boxed{7}")]
    starts = before in ("", "so\n")  # "- " is a bullet there
    texts = (before + s + g + n for s, g, n in cases if not (starts and s + g == "- "))
    assert wrong((text, {-7}) for text in texts) == []


CALM = set(
    "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029 \t\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f"
)
CALM |= set("\ufeff=≈≃≅∼→⇒⟹⟶∴`~$＄＝€£¥₹₽₩₪₺°½") | set(filter(str.isspace, UNICODE))
UNKNOWN = "Sm Sk Sc No Nl Mn Me Lm Cc Cf Cs Co Cn Pd".split()
MINUS = set("-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d")
LIST = MINUS | set(";；、\u2014\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\t=≈≃≅∼→⇒⟹⟶∴＝:&")
MARKS = [c for c in UNICODE if not c.isalnum() or unicodedata.category(c) in UNKNOWN]
STRANGE = [c for c in MARKS if unicodedata.category(c) in UNKNOWN and c not in CALM]


def test_every_character_of_unicode_beside_a_number_is_understood_or_makes_it_none():
    """No character calculates, groups digits or hides a sign without being known to."""
    signed = {**{c: {-7} for c in MINUS}, **{c: {7} for c in "+\uff0b—"}}
    assert wrong((f"is {c}7", signed.get(c, set())) for c in STRANGE) == []
    shares = {c: Fraction(unicodedata.numeric(c, 0)).limit_denominator(99) for c in STRANGE}
    parts = {c: {7 + share} for c, share in shares.items() if 0 < share < 1}
    calm = {c: {7} for c in MINUS | {"—"}}
    assert wrong((f"is 7{c}", (calm | parts).get(c, set())) for c in STRANGE) == []
    value: dict[str, Set[int | Fraction]] = {c: {Fraction("1.234")} for c in ".\uff0e"}
    value |= {c: {Fraction(1, 234)} for c in "/\u2044\u2215\uff0f"}
    value |= {c: {1234, 234} for c in LIST}
    assert wrong((f"is 1{c}234", value.get(c, {1234})) for c in MARKS) == []


COMMANDS = """
alpha bar bf big binom bmod boldsymbol bullet cap cdot cdots ceil centering choose circ cong cos
cup dag ddot delta dfrac displaystyle div dot ell ensuremath epsilon equiv exists exp flat floor
forall frac gamma gcd ge genfrac geq hat hbox hfill hline hphantom hskip hspace in infty int
kern lambda land lceil ldots le leftarrow leq lfloor lg lim ln log lor lt mathbb mathbin mathcal
mathop mathrm max mbox middle min minus mod mp mu nabla ne neg neq newline not omega ominus
operatorname oplus over overline partial perp phantom phi pi pm pmod prime prod propto psi quad
rho rm root setminus sharp sigma sim sin smash sqrt square star substack sum tan tau text textbf
textcolor textminus textsuperscript tfrac theta tilde times to triangle underbrace underline
vdots vec vert widehat wp xi zeta
""".split()
RELATIONS = {"cong", "sim", "to"}
EQUALS = RELATIONS | {"displaystyle", "quad", "big", "newline", "hline"}  # and the type's shape:
APART = RELATIONS | {"newline", "hline", "quad"}  # two numbers stay two
SHAPES = set("bf rm text textbf mathrm mathbin mathop mbox hbox underline".split())
SHAPES.add("boldsymbol")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_of_latex_beside_a_number_is_overlooked(command):
    """A known one changes nothing; behind a minus sign, none leaves the number positive."""
    calm = {7} if command in EQUALS | SHAPES else set()
    related = {7} if command in RELATIONS else set()
    forms = [rf"\{command} 7", rf"\{command}7", rf"\{command}{{7}}", rf"\{command}\,7"]
    more = [rf"\{command}{{2}}7", rf"\{command}{{2}} 7", rf"\{command}_2 7", rf"\{command}^2 7"]
    more += [rf"\{command}[3]{{7}}", rf"\{command}{{2}}{{7}}", rf"\{command}{{2}}\n{{7}}"]
    after = [rf"7\{command}", rf"7 \{command}", rf"7\{command} x", rf"7\{command}{{x}}"]
    halves = {Fraction(2, 7)} if command.endswith("frac") else set()
    texts: list[Said] = [(f"is ${form}$", calm) for form in forms]
    texts += [
        (f"is ${form}$", halves | ({7} if command in EQUALS | SHAPES else set())) for form in more
    ]
    ends = {7} if command in EQUALS | SHAPES | {"circ", "hfill"} else set()
    texts += [(f"is ${form}$", ends) for form in after]
    texts += [(f"is $-{form}$", {-7} | related) for form in forms] + [
        (f"is $2{form}$", {7} if command in APART else set()) for form in forms
    ]
    assert wrong(texts) == []


TAGS = "b i em strong u span font p td li div mark small code sup sub del s".split()
TAGS += "math mn mo mfrac msqrt".split()
OPERATORS = ["+", "×", "÷", "/", "^", "√", "±", "∓", "<", ">", "≤", "≠", "2 *", "-", "−", "minus"]
OPERATORS += [
    "negative",
    "times",
    "sqrt",
    "log",
    "square root of",
    r"\pm",
    r"\times",
    r"\sqrt",
    r"\frac{1}",
]
OPERATORS += ["x - (", r"\sqrt{", r"-\left(", "-{", "∛", "·", r"2\cdot", "twice", "plus"]


def test_neither_tags_nor_ends_of_lines_hide_an_operation():
    texts = [
        (f"is {op}{gap}7", {-7} if op in "-−" else {Fraction(1, 7)} if "frac" in op else set())
        for op in OPERATORS
        for gap in ("\n", "\r\n", " \n ", "\u2028", "<br>", "<b>", "\n<b>", "\n$", "\n**")
    ]
    for tag in TAGS:
        for sign in ("-", "\u2212", "&minus;", "√", "minus "):
            texts += [(f"is {sign}<{tag}>7</{tag}>", {-7}), (f"is <{tag}>{sign}</{tag}>7", {-7})]
            texts += [(f"is <{tag}>{sign}</{tag}> <{tag}>7</{tag}>", {-7})]
        texts += [(f"is 2<{tag}>7</{tag}>", {7} if tag in ("td", "p", "li", "div") else set())]
        texts += [(f"is <{tag}>7</{tag}>{end}", set()) for end in ("!", "^2", "x", "π", " million")]
        texts += [(f"is 7<{tag}>{end}</{tag}>", set()) for end in ("!", "x", "π", "k")]
        texts += [(f"is 7<{tag}>2</{tag}>", {2} if tag in ("td", "p", "li", "div") else set())]
    texts += [
        (f"is 7\n{end}", set()) for end in ("!", "^2", r"\pi", "squared", "× 10", "/ 2", "√2")
    ]
    assert wrong(texts) == []


def test_powers_of_ten_are_read_whole_or_not_at_all():
    times = [
        c
        for c in MARKS
        if c not in LIST
        and c not in CALM
        and c not in "([{"
        and unicodedata.category(c) not in ("Ps", "Pi", "Cc")
    ]
    times += [
        "x",
        "X",
        "х",
        "χ",
        " x ",
        " ✕ ",
        " ✖ ",
        " times ",
        r"\times ",
        r"\cdot",
        r"\,\times\,",
        "<b>×</b>",
    ]
    products: list[Said] = [
        (f"is 7{c}10^3", {7000} if c != "/" else set()) for c in times if c not in (",", ".", "'")
    ]
    written: list[Said] = [
        (
            f"is {a}{point}{gap}{e}{space}{sign}{n}",
            {Fraction(a) * Fraction(10) ** int(f"{sign}{n}")},
        )
        for a in ("1", "12", "0.5", "1234")
        for point in ("", ".")
        for e in "eE"
        for gap in ("", " ", "\u2003", "\u200b")
        for space in ("", " ", r"\,")
        for sign in ("", "-", "+")
        for n in ("2", "10")
        if not (point and "." in a)
    ]
    assert wrong(products + written) == []
    assert [read(t) for t in ("1.e-3", "5.e2", "7✕10^3")] == [Fraction(1, 1000), 500, 7000]
