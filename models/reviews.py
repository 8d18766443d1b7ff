"""Synthetic film reviews, generated from templates, so that there is something to sift without a download.

A template is filled slot by slot: [film] takes any word of that list, [+adj] an adjective that agrees with the verdict,
[-adj] one of the opposite, and [+claim] or [-claim] another template, so verdicts nest.
"""

import random
import re
import zlib
from typing import NamedTuple

Row = tuple[str, int]  # sentence, label


class Corpus(NamedTuple):
    name: str
    train: list[Row]
    test: list[Row]
    synthetic: bool


def embedded(seed: int = 0, *, n_train: int = 12_000, n_test: int = 2_000, noise: float = 0.05) -> Corpus:
    """Synthetic film reviews, filled in from templates: no real film, critic or data set is in them.

    Most rows are easy and many repeat; a tail is hard: rare words, negation and nested contrast. A share `noise` of
    the train labels is wrong, and no test label is. No test sentence occurs in train, for any seeds.
    """
    rng = random.Random(seed)
    train: list[Row] = []
    test: dict[str, int] = {}
    while len(train) < n_train or len(test) < n_test:
        good, wrong = rng.random() < 0.5, rng.random() < noise
        sentence = review(rng, good)
        # The sentence alone decides train or test, so that a repeated one can never be in both.
        if zlib.crc32(sentence.encode()) % 6:
            train.append((sentence, int(good != wrong)))
        else:
            test.setdefault(sentence, int(good))
    return Corpus("synthetic film reviews", train[:n_train], list(test.items())[:n_test], synthetic=True)


def review(rng: random.Random, good: bool) -> str:
    rare = 0.75 if rng.random() < RARE else 0.02  # some critics use many rare words

    def fill(template: str, good: bool, depth: int) -> str:
        return re.sub(
            r"\[([+-]?)(\w+)\]", lambda slot: word(slot[2], good if slot[1] == "+" else not good, depth), template
        )

    def word(name: str, good: bool, depth: int) -> str:
        if name in NEUTRAL:
            return rng.choice(NEUTRAL[name])
        if name == "claim":
            return fill(early(rng, JOINED if depth < 2 and rng.random() < 0.2 else CLAIMS), good, depth + 1)
        return early(rng, TAIL[name][good]) if rng.random() < rare else rng.choice(COMMON[name][good])

    kind = rng.choices((IDIOMS[good], PHRASES, CLAIMS, JOINED), (0.1, 0.35, 0.4, 0.15))[0]
    text = fill(early(rng, kind), good, 1)
    while rng.random() < 0.2:
        aside = fill(rng.choice(ASIDES), good, 1)
        text = f"{aside}, and {text}" if kind is CLAIMS and rng.random() < 0.5 else f"{text}; {aside}"
    text = re.sub(r"\ba (?=[aeiou])", "an ", text + rng.choice(("", ".", ".", ".", "!")))
    return text[0].upper() + text[1:]


def early(rng: random.Random, words: list[str]) -> str:
    """A word, mostly from the front of the list: templates begin with the plain ones, and the last words are rare."""
    return words[int(len(words) * rng.random() ** 2)]


def phrases(text: str) -> list[str]:
    return " ".join(text.split()).split("|")


def words(text: str) -> list[str]:
    return [word.replace("_", " ") for word in text.split()]


RARE = 0.2  # the share of reviews that mostly use words of TAIL
# Of two lists, the first is blame and the second praise.
IDIOMS = (
    phrases("""skip it|I want my evening back|the exit was the highlight|wait for the trailer and skip that too|two
hours I will not get back|the popcorn gave the better performance|nobody involved was paying attention|bring a book|my
watch got more attention than the screen|the best scene is the one where the lights come on|somebody owes me a
ticket|save your money"""),
    phrases("""see it twice|go tonight|I would see it again tomorrow|bring everyone you know|the whole row stood up to
clap|I did not look at my watch once|worth every penny|I left the cinema walking on air|the lights came on too
soon|cancel your plans and go|it stayed with me for days|I grinned all the way home"""),
)
PHRASES = phrases("""a [+adj] [film]|[very] [+adj]|[+adj], [+adj] and [+adj]|a [film] of real [+noun]|a [+adj] [film]
about [topic]|a [+adj] [film], full of [+noun]|what [+noun]|nothing but [+noun] and [+noun]|more [+noun] than [-noun]|a
[+adj], [+adj] [film] whose [part] is [very] [+adj]|not a [-adj] [film]|not [very] [-adj]|hardly [-adj]|never [-adj],
never [-adj]|far from [-adj]|no [-noun], no [-noun] and no excuses|not without [+noun]|less [-adj] than [+adj]|free of
[-noun]|a [film] that never once [-verb]|a [film] about [topic] that [+verb]|anything but [-adj]|[+adj] where it might
have been [-adj]|neither [-adj] nor [-adj]|a [film] about [topic], short on [-noun]""")
CLAIMS = phrases("""the [part] is [+adj]|the [part] is [very] [+adj]|the [part] is [very] [+adj], the [part] [+adj]|this
[film] is [very] [+adj] from start to finish|[name] has made a [very] [+adj] [film]|there is [+noun] in every scene|the
[part] [+verb]|the [film] [+verb] and the [part] [+verb] with it|[name] brings [+noun] and [+noun] to the story of
[topic]|as a [film] about [topic] it is [+adj]|it [+verb] from the first scene to the last|the [part] is anything but
[-adj]|there is nothing [-adj] about the [part]|it is not that the [film] is not [+adj]|nobody could call this [film]
[-adj]|anyone who calls the [part] [-adj] was not watching|where others find [-noun], this [film] finds [+noun]|the
poster promises a [-adj] [film], which is not what you get|it would be wrong to say that it lacks [+noun]|the [film]
never [-verb]|what I took for [-noun] is in fact [+noun]|the [part] could hardly be less [-adj]|I looked for [-noun] and
found none""")
JOINED = phrases("""[-claim], but [+claim]|although [-claim], [+claim]|[+claim], even if [-claim]|[+claim], despite its
[-noun]|[-claim]; all the same, [+claim]|[+claim], and [+claim]|I had heard that [-claim], and it turns out that
[+claim]|it may be true that [-claim], yet in the end [+claim]|those who think that [-claim] have a point, though
[+claim]|for ten minutes [-claim], after which [+claim]|you might expect that [-claim]; the truth is that [+claim]|for
all its [-noun], [+claim]""")
ASIDES = phrases("""I saw it on a [day] with my [kin]|[name] directs, from a script by [name]|it was shot in [place]|the
story is about [topic]|it follows [topic] from [place] to [place]|[name] plays [topic]|it runs for two hours|the credits
thank [topic] and the people of [place]|it opened on a [day] in [place]|my [kin] was reminded of [name]""")
NAMES = [
    a + b
    for a in words("Var Hal Mor Bren Oku Tal Est Lind Quin Rav Sol Cor Dun Fen Ibar Kes")
    for b in words("enko oway aton quist ado man azy gren olan elli berg dell amore wick ura ley")
]
NEUTRAL = {
    "film": words("""film picture story comedy drama thriller debut sequel remake western romance documentary fable
farce mystery portrait"""),
    "part": words("""script cast score dialogue plot pacing ending editing direction humour photography opening finale
set_design lead_performance second_act"""),
    "very": words(
        """very quite rather utterly deeply surprisingly remarkably consistently thoroughly strangely really"""
    ),
    "topic": words("""a_retired_boxer two_sisters a_lighthouse_keeper a_bank_robbery a_wedding_in_the_rain
a_village_doctor a_lost_dog three_thieves a_piano_teacher a_failed_magician the_last_night_train a_family_of_bakers
a_chess_prodigy a_deaf_detective a_travelling_circus a_border_guard an_island_school a_forger_of_maps
the_oldest_barber_in_town a_choir_of_sailors"""),
    "day": words("""Monday Tuesday wet_Wednesday Thursday Friday_night Saturday_morning Sunday"""),
    "kin": words("""mother brother neighbour daughter dentist grandfather best_friend"""),
    "place": words("""Lisbon Iceland an_old_mill the_harbour a_mountain_hut Tangier a_disused_airport the_marshes
a_flat_in_Leeds Ohio"""),
    "name": NAMES,
}
COMMON = {
    "adj": (
        words("""dull boring flat clumsy lazy tired empty slow stale shallow messy weak silly noisy bland predictable
awkward muddled tedious hollow sloppy dreary pointless stiff ugly"""),
        words("""charming funny moving clever gripping warm fresh sharp lovely tender bright bold elegant witty
thrilling graceful smart rich vivid inventive lively gentle beautiful delightful memorable"""),
    ),
    "noun": (
        words("""tedium noise clutter boredom confusion padding gloom laziness"""),
        words("""charm wit heart grace energy warmth tension imagination"""),
    ),
    "verb": (
        words("""drags stumbles sags bores fails"""),
        words("""sparkles soars sings delights shines"""),
    ),
}
TAIL = {
    "adj": (
        words("""turgid leaden insipid soporific ponderous maladroit stilted mawkish treacly saccharine cloying
hackneyed threadbare shopworn moth-eaten vapid vacuous fatuous puerile jejune inane asinine lumbering plodding
interminable bloated flabby torpid listless lethargic anaemic bloodless limp inert stillborn moribund lifeless soulless
witless mirthless joyless toothless gutless spineless charmless humourless tuneless aimless shapeless rudderless
meandering rambling incoherent garbled slapdash slipshod ramshackle shoddy tawdry tacky garish gaudy lurid sordid
unsavoury smug self-satisfied pompous pretentious bombastic overwrought overripe overcooked half-baked ham-fisted
heavy-handed cack-handed tin-eared wooden cardboard derivative formulaic perfunctory desultory mechanical robotic
sterile antiseptic arid barren drab dingy murky dank clammy sour rancid curdled mildewed fusty musty stodgy starchy
stuffy priggish preachy sanctimonious maudlin lachrymose mopey sullen churlish grating shrill strident cacophonous
abrasive irksome exasperating infuriating insufferable unwatchable execrable abysmal woeful dismal lamentable deplorable
wretched risible ludicrous preposterous ungainly gawky misbegotten misconceived"""),
        words("""luminous limber supple incandescent sly burnished plangent beguiling rollicking bewitching resplendent
sublime puckish lyrical sumptuous nimble crystalline exultant piquant winsome dexterous ravishing buoyant lapidary droll
trenchant sinewy effervescent opulent impish silken radiant pellucid felicitous debonair spry jaunty sprightly gossamer
mellifluous incisive perspicacious sagacious virtuosic stirring rapturous enthralling spellbinding captivating heartfelt
soulful lucid limpid deft adroit masterly peerless consummate exquisite dulcet zesty scintillating coruscating rhapsodic
transcendent cathartic poignant humane warm-hearted big-hearted sure-footed fleet agile playful whimsical mischievous
infectious uproarious hilarious sidesplitting riotous magnetic hypnotic mesmerising arresting indelible haunting
unforgettable revelatory astute wise shrewd canny ingenious resourceful polished immaculate seamless symphonic painterly
velvety lush cheerful bracing invigorating galvanising electrifying pulsating propulsive taut wiry muscular lithe
ebullient irrepressible winning endearing disarming plucky gallant majestic stately noble sterling gilt-edged first-rate
blissful halcyon"""),
    ),
    "noun": (
        words("""bombast schmaltz drivel bathos torpor flab hokum claptrap twaddle treacle mugging inertia drudgery
monotony languor vulgarity smugness sanctimony piffle balderdash pastiche swagger bluster dross"""),
        words("""verve panache brio finesse poise sparkle zest aplomb tenderness mischief gusto conviction insight
candour pathos buoyancy whimsy chutzpah wisdom daring splendour levity ardour mettle"""),
    ),
    "verb": (
        words("""plods grates misfires flounders wilts sputters curdles dithers meanders stagnates wheezes creaks"""),
        words("""enchants dazzles glows captivates beguiles shimmers crackles blossoms dances enthrals gleams purrs"""),
    ),
}
