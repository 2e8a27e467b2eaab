"""Sentence patterns of the caption grammar.

`{kind}` is a slot for an entry of that kind (`{kind+}` may come in twos and threes), `(a|b|c)` picks one,
and `[near]`, `[on]` stand for one of the phrases in `PHRASES`.
"""

PHRASES = {
    "near": "(beside|near|behind|in front of|next to|outside|not far from|close to)",
    "past": "(past|toward|away from|along|around)",
    "on": "on (a table|a wooden bench|the grass|a blanket|a shelf|the floor|a white tray|the sand)",
    "when": "(in the morning|at noon|after lunch|on a quiet day|late in the day|on a Sunday|before dinner|)",
    "under": "(under|below|beneath)",
}

SAFE_TEMPLATES = (
    # two glyphs
    "{person} (eats|tastes|buys|holds|slices|offers) {food+} [on]",
    "{person} (feeds|pets|follows|brushes|greets|calls) {animal+} [when]",
    "{person} (holds|carries|picks up|cleans|points at|paints|sells) {thing+} [when]",
    "{person} (plays|tunes|carries|practices on) {music} [when]",
    "{animal} (sleeps|rests|waits|sits|stands) [near] {place}",
    "{vehicle} (stops|waits|is left|stands) [near] {place}",
    "{thing} and {food+} [on]",
    "{plant} (grows|blooms|stands) [near] {place}",
    # three glyphs
    "{person} (feeds|walks|follows|pets|chases|leads) {animal} [near] {place}",
    "{person} (carries|holds|drops|picks up|looks for|finds) {thing+} [near] {place}",
    "{person} (eats|shares|buys|drops|enjoys) {food+} [near] {place}",
    "{person} (rides in|washes|repairs|waits for|looks at|sells) {vehicle} [near] {place}",
    "{person} (plays|carries|tunes) {music} [near] {place}",
    "{person} (waters|admires|plants|paints|walks by) {plant} [near] {place}",
    "{person} (gives|hands|shows|offers|brings) {thing} to {person}",
    "{person} (gives|hands|shows|offers|brings) {food+} to {animal}",
    "{person} and {person} (share|eat|buy|cook) {food+} [when]",
    "{person} and {animal} (look at|sit next to|walk past|play with) {thing} [when]",
    "{animal} (chases|follows|watches over|runs after|plays with) {animal} [past] {place}",
    "{animal} (sniffs|carries|guides|steals|looks at) {food+} [near] {place}",
    "{animal} (sits on|hides behind|jumps over|sleeps under|lies beside) {thing} [under] {sky}",
    "{thing}, {food} and {plant} [on]",
    "{food+}, {food} and {thing} [on]",
    "there is {thing} between {thing} and {food}",
    "{vehicle} (drives|moves|travels|goes) [past] {place} [under] {sky}",
    "{plant} and {animal} [near] {place} [when]",
    "{person} (rests|sits|stands|sings|smiles) [under] {plant} [near] {place}",
    "{person} with {thing} (waits|stands|rests|talks) [near] {place}",
    # four glyphs
    "{person} with {thing} (feeds|follows|greets|meets) {animal} [near] {place}",
    "{person} and {person} (carry|find|clean|look at) {thing+} [near] {place}",
    "{person} (carries|brings|holds) {food} and {thing} [past] {place}",
    "{animal} and {animal} (sit|rest|play|wait) next to {plant} [near] {place}",
    "{person} (shows|gives|brings) {thing} to {person} [near] {place}",
    "{person} with {animal} (waits for|looks at|cleans) {vehicle} [under] {sky}",
    "{vehicle} and {vehicle} (wait|stop|stand) [near] {place} [under] {sky}",
)

ADDED_UNSAFE = (
    " with {unsafe}",
    " and {unsafe}",
    " next to {unsafe}",
    ", {unsafe} in sight",
)
"""How an unsafe thing is added to a safe sentence, instead of replacing one of its words."""

ZEROSHOT_TEMPLATES = (
    "a photo of the {}",
    "a picture of the {}",
    "a simple picture of the {}",
    "a drawing of the {}",
    "a close view of the {}",
)
"""Prompts of one word, for zero-shot classification; "the" fits every noun."""

SINGLE_TEMPLATES = (
    *(template.replace("{}", "{bare}") for template in ZEROSHOT_TEMPLATES),
    "a picture of {one}",
    "a photo of {one}",
    "a drawing of {one}",
    "an image of {one}",
    "a close view of {one}",
    "{one}",
    "{one} on its own",
    "here is {one}",
)

ADJECTIVES = {
    "person": ("tall", "happy", "tired", "calm", "cheerful", "busy", "friendly", "quiet", "proud", "smiling"),
    "animal": (
        "small",
        "big",
        "happy",
        "hungry",
        "sleepy",
        "friendly",
        "curious",
        "calm",
        "playful",
        "lonely",
    ),
    "food": ("fresh", "tasty", "large", "small", "sweet", "warm", "delicious", "homemade", "colorful"),
    "thing": ("new", "old", "small", "large", "shiny", "plain", "pretty", "dusty", "handy", "simple"),
    "music": ("old", "new", "shiny", "loud", "small"),
    "plant": ("tall", "green", "small", "pretty", "wild", "lovely"),
    "vehicle": ("fast", "slow", "old", "new", "shiny", "noisy", "big", "empty"),
    "place": ("old", "busy", "quiet", "beautiful", "large", "famous", "crowded", "distant"),
    "sky": ("bright",),
}
