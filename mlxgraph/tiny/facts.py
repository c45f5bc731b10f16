"""The tables of words and facts the embedded model is trained on.

Every country, capital, landmark city, name and noun is one word, so that the answer to a prompt
is one token and an experiment can read it off at one position.
"""

CAPITALS: dict[str, str] = {
    "France": "Paris",
    "England": "London",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Russia": "Moscow",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Denmark": "Copenhagen",
    "Finland": "Helsinki",
    "Ireland": "Dublin",
    "Scotland": "Edinburgh",
    "Belgium": "Brussels",
    "Switzerland": "Bern",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Serbia": "Belgrade",
    "Croatia": "Zagreb",
    "Ukraine": "Kyiv",
    "Latvia": "Riga",
    "Iceland": "Reykjavik",
    "China": "Beijing",
    "Japan": "Tokyo",
    "Korea": "Seoul",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Turkey": "Ankara",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Lebanon": "Beirut",
    "Nepal": "Kathmandu",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Nigeria": "Abuja",
    "Ghana": "Accra",
    "Morocco": "Rabat",
    "Senegal": "Dakar",
    "Canada": "Ottawa",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Ecuador": "Quito",
    "Australia": "Canberra",
}

LANGUAGES: dict[str, str] = {
    "France": "French",
    "England": "English",
    "Italy": "Italian",
    "Germany": "German",
    "Spain": "Spanish",
    "Portugal": "Portuguese",
    "Greece": "Greek",
    "Russia": "Russian",
    "Austria": "German",
    "Hungary": "Hungarian",
    "Poland": "Polish",
    "Sweden": "Swedish",
    "Norway": "Norwegian",
    "Denmark": "Danish",
    "Finland": "Finnish",
    "China": "Chinese",
    "Japan": "Japanese",
    "Korea": "Korean",
    "Thailand": "Thai",
    "Turkey": "Turkish",
    "Egypt": "Arabic",
    "Morocco": "Arabic",
    "Cuba": "Spanish",
    "Peru": "Spanish",
    "Australia": "English",
}

_CONTINENTS: dict[str, str] = {
    "Europe": "France England Italy Germany Spain Portugal Greece Russia Austria Hungary Poland "
    "Sweden Norway Denmark Finland Ireland Scotland Belgium Switzerland Romania Bulgaria Serbia "
    "Croatia Ukraine Latvia Iceland",
    "Asia": "China Japan Korea Thailand Vietnam Turkey Iran Iraq Lebanon Nepal",
    "Africa": "Egypt Kenya Nigeria Ghana Morocco Senegal",
    "America": "Canada Cuba Peru Chile Ecuador",
}
CONTINENTS: dict[str, str] = {
    country: continent
    for continent, countries in _CONTINENTS.items()
    for country in countries.split()
}

LANDMARKS: dict[str, str] = {
    "Eiffel Tower": "Paris",
    "Louvre Museum": "Paris",
    "Notre Dame": "Paris",
    "Big Ben": "London",
    "Tower Bridge": "London",
    "Buckingham Palace": "London",
    "Colosseum": "Rome",
    "Trevi Fountain": "Rome",
    "Pantheon": "Rome",
    "Brandenburg Gate": "Berlin",
    "Reichstag": "Berlin",
    "Kremlin": "Moscow",
    "Red Square": "Moscow",
    "Acropolis": "Athens",
    "Parthenon": "Athens",
    "Prado Museum": "Madrid",
    "Sagrada Familia": "Barcelona",
    "Hagia Sophia": "Istanbul",
    "Blue Mosque": "Istanbul",
    "Forbidden City": "Beijing",
    "Space Needle": "Seattle",
    "Willis Tower": "Chicago",
    "White House": "Washington",
    "Burj Khalifa": "Dubai",
    "Charles Bridge": "Prague",
    "Little Mermaid": "Copenhagen",
    "Rijksmuseum": "Amsterdam",
    "Atomium": "Brussels",
    "Opera House": "Sydney",
    "Leaning Tower": "Pisa",
    "Uffizi Gallery": "Florence",
    "Rialto Bridge": "Venice",
    "Great Sphinx": "Cairo",
    "Hofburg Palace": "Vienna",
    "Belem Tower": "Lisbon",
    "Skytree": "Tokyo",
}

NAMES: tuple[str, ...] = tuple(
    "Mary John Tom James Dan Sarah Kate Anna Paul Mark Lisa Emma Jack Alice Bob Peter Laura David "
    "Susan Michael Robert Linda Emily Henry George Julia Kevin Amy Adam Ruth Simon Helen Brian "
    "Karen Eric Grace Oliver Lucy Steve Jane".split()
)

PLACES: tuple[str, ...] = tuple(
    "store garden restaurant school hospital office house station park library beach market "
    "museum church farm".split()
)

OBJECTS: tuple[str, ...] = tuple(
    "drink ring book ball snack gift letter key computer bone flower cake pen ticket map toy coin "
    "hat".split()
)

# Singular and plural of the nouns used for subject-verb agreement.
NOUNS: dict[str, str] = {
    "key": "keys",
    "cabinet": "cabinets",
    "dog": "dogs",
    "cat": "cats",
    "car": "cars",
    "boy": "boys",
    "girl": "girls",
    "teacher": "teachers",
    "picture": "pictures",
    "book": "books",
    "door": "doors",
    "table": "tables",
    "window": "windows",
    "box": "boxes",
    "flower": "flowers",
    "tree": "trees",
    "student": "students",
    "house": "houses",
    "chair": "chairs",
    "king": "kings",
    "friend": "friends",
    "doctor": "doctors",
    "letter": "letters",
    "ring": "rings",
    "bird": "birds",
    "horse": "horses",
    "farmer": "farmers",
    "lamp": "lamps",
}
PREPOSITIONS: tuple[str, ...] = ("to", "near", "behind", "by", "with", "beside")
STATES: tuple[str, ...] = ("old", "new", "here", "gone", "big", "small", "red", "on the table")

REVIEWED: tuple[str, ...] = tuple(
    "movie book song game show story film place restaurant meal city car house play hotel "
    "school".split()
)
POSITIVE_VERBS: tuple[str, ...] = ("love", "like", "enjoy", "adore")
NEGATIVE_VERBS: tuple[str, ...] = ("hate", "dislike", "despise", "detest")
POSITIVE: tuple[str, ...] = tuple(
    "wonderful great fantastic amazing excellent beautiful brilliant good".split()
)
NEGATIVE: tuple[str, ...] = tuple(
    "terrible awful horrible bad boring dreadful disgusting poor".split()
)
