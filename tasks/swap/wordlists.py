"""Word lists that WordNet cannot give: what cannot be seen, and what must not be said."""

from typing import Final

from iedit_model.inflection import word_set

VISIBLE_LEXNAMES: Final = (
    "noun.animal",
    "noun.artifact",
    "noun.food",
    "noun.location",
    "noun.object",
    "noun.person",
    "noun.plant",
)
"""WordNet's lexicographer files of things that can be pointed at, each of which a segmentation can find.

Parts of the body are left out: swapping an eye for an ear makes no image that exists.
"""

UNSEEN_NOUNS: Final = word_set(
    """
    abstract air amount angle animation appearance area arrangement array art article artwork aspect assortment
    back backdrop background banner base beginning bit blend block border bottom brand bunch bundle caption category
    center centre chart clip clip_art clipart close close-up closeup cluster coast collage collection color colour
    combination companion concept content copy corner couple cover crowd cut day daylight decor depiction design
    detail diagram direction display distance dozen drawing edge editorial element end entrance environment event
    example exterior face figure file fill flat flock foreground form frame front gallery gathering graphic graph
    ground group half hand handful head heap herd horizon icon illustration image infographic inside interior item
    kind land landscape layer layout left length letter level life light line list location logo look lot map mark
    mass material matter medium middle mixture model moment montage name nature number object opening other outdoors
    outline outside pack pair panel panorama part party pattern people period person photo photograph photography
    photoshoot picture piece pile place placeholder plain point portion portrait position poster print product profile
    quarter range rear reflection render rendering rest right round row scene scenery screenshot section selection
    selfie sequence series set setting shadow shape sheet shot show side sight sign silhouette site situation size
    sketch sky slice snapshot something sort source space specimen spot stack still stock_photo stretch string
    structure style subject surface surround surrounding surroundings symbol template text texture thing thumbnail
    time title top tour trip type unit variety vector version vicinity video view viewer wallpaper watermark way whole
    width word work world year

    brim button collar corner cuff dial handle hem hinge hole keyhole knob lid nozzle pedal pocket prong rim rod screw
    seam sleeve slot spike spout stitch strap tip zip zipper
    """
)
"""Nouns (lemmas) that name no one object in an image: the medium, quantities, places in the frame, small parts."""

VISIBLE_ATTRIBUTES: Final = word_set(
    """age.n.01 cleanness.n.01 color.n.02 curliness.n.01 depth.n.01 fullness.n.03 happiness.n.01 height.n.01 hue.n.01
    length.n.01 light.n.07 luminosity.n.01 shape.n.01 size.n.01 stature.n.02 thickness.n.01 value.n.04 wetness.n.01
    width.n.01"""
)
"""What an adjective must give a value to (WordNet's attribute relation, its head's included) to be seen."""

COLOUR_ATTRIBUTES: Final = word_set("hue.n.01 value.n.04")
"""The attributes of colours and of light and dark."""

SHADES: Final = word_set("bright dark deep dull faded light muted neon pale pastel soft vivid")
"""Adjectives that shade a colour when one follows ("light blue")."""

VISIBLE_HEADS: Final = word_set(
    """achromatic.a.01 bare.a.01 bare.a.04 beautiful.a.01 broken.a.01 carved.a.01 chromatic.a.03 closed.a.01 closed.a.02
    closed.a.04 clothed.a.01 cloudy.a.02 clear.a.02 coiled.a.01 colored.a.01 cooked.a.01 covered.a.01 crooked.a.01
    crowded.a.01 decorated.a.01 empty.a.01 fancy.a.01 framed.a.01 frozen.a.01 furnished.a.01 hairless.a.01 hairy.a.01
    lighted.a.01 metallic.a.01 modern.a.01 open.a.01 open.a.02 open.a.04 painted.a.01 patterned.a.01 plain.a.01
    pointed.a.01 raw.a.01 ripe.a.01 rough.a.01 round.a.01 shut.a.01 smooth.a.01 square.a.01 steep.a.01 straight.a.02
    stormy.a.01 calm.a.02 transparent.a.01 opaque.a.01 uncrowded.a.01 woody.a.01"""
)
"""Adjective heads that can be seen but have no visible attribute in WordNet."""

CONTRASTING_HEADS: Final = word_set(
    "achromatic.a.01 chromatic.a.03 cooked.a.01 metallic.a.01 patterned.a.01 woody.a.01"
)
"""Heads whose satellites exclude one another (red, blue), unlike those whose satellites mean the same (huge, vast)."""

ANIMATE_SENSES: Final = word_set("old.a.01 young.a.01 short.a.03 thin.a.02 fat.a.01 happy.a.01 sad.a.01")
"""Adjective senses said of people and animals alone."""

INANIMATE_SENSES: Final = word_set("old.a.02 new.a.01 short.a.02 long.a.02 thin.a.01 thick.a.01")
"""Adjective senses said of everything but people and animals."""

BLOCKED_WORDS: Final = word_set(
    """
    addict adulterer alcoholic ape asshole bastard beggar bimbo bitch blackamoor blackguard bondman bondwoman boob
    brothel bugger bullshit buttocks castrate cocaine cock concubine condom coolie corpse courtesan coward cracker crap
    cretin cripple criminal cuckold cunt damn degenerate demon devil dick dildo drug drunk drunkard dwarf dyke
    eunuch faggot fag fanny fascist fat fatso fiend fool fornicator freak frump fuck gangbanger genitalia gringo
    harlot heathen heretic heroin hooker hussy hustler idiot imbecile infidel insane jackass jerk junkie kike killer
    lame lesbian loser lunatic madman maniac marijuana mistress molester mongrel mongoloid monster moron mulatto
    murderer naked nazi negress negro nigger nigga nigra nude nudist nymphomaniac octoroon orgasm paedophile paddy
    paramour pauper pederast pedophile peasant penis pervert pimp piss porn prick prostitute psycho psychopath pussy
    quadroon queer racist rape rapist retard retarded savage scum semen sex sexy shit simpleton sissy slave slattern
    slob slut sodomite spastic spinster squaw strumpet stupid suicide swastika tart terrorist thug tit tits tramp
    transvestite trollop turd ugly vagina villain virgin wench wetback white_trash whore whoremaster witch
    """
)
"""Words (lemmas) that no edit prompt may bring in, beside those that WordNet itself marks as slurs or vulgar. Other
words for the same person are out with them."""

BLOCKED_SENSES: Final = word_set(
    """
    b-girl.n.01 bad_person.n.01 cadaver.n.01 concentration_camp.n.01 contraceptive.n.01 controlled_substance.n.01
    convict.n.01 dominatrix.n.01 fool.n.01 harem.n.01 homosexual.n.01 instrument_of_execution.n.01
    instrument_of_torture.n.01 mistress.n.01 narcotic.n.01 nude.n.03 opium_den.n.01 prostitute.n.01 sensualist.n.01
    sex_object.n.01 simpleton.n.01 slave.n.01 stripper.n.03 torture_chamber.n.01 unwelcome_person.n.01 whorehouse.n.01
    """
)
"""Synsets that no edit prompt may bring in, in any word, nor anything below them."""

PLURAL_ONLY: Final = word_set(
    """
    binoculars clothes glasses goggles scissors shorts stairs sunglasses tights tweezers
    """
)
"""Plurals that are read as lemmas of their own even where their singular is a more frequent word."""

PAIRED: Final = word_set(
    """
    breech chino corduroy dungaree earphone flannel headphone jean jodhpur knicker legging overall pajama pant plier
    pyjama slack suspender sweatpant trouser
    """
)
"""Lemmas of WordNet that stand in the plural alone: nobody wears a trouser."""

ROOTS: Final = word_set(
    """
    abstraction.n.06 animal.n.01 area.n.05 artifact.n.01 block.n.01 building_material.n.01 causal_agent.n.01
    commodity.n.01 covering.n.02 decoration.n.01 device.n.01 entity.n.01 equipment.n.01 food.n.01 food.n.02
    implement.n.01 instrument.n.01 instrumentality.n.03 living_thing.n.01 location.n.01 material.n.01 matter.n.03
    natural_object.n.01 object.n.01 organism.n.01 part.n.02 person.n.01 physical_entity.n.01 plant.n.02 plant_organ.n.01
    plant_part.n.01 protective_covering.n.01 region.n.03 solid.n.01 structure.n.01 substance.n.01 substance.n.07
    surface.n.01 thing.n.12 vascular_plant.n.01 whole.n.02
    """
)
"""Synsets so broad that sharing one means nothing; no co-hyponym is looked for under them."""

WRONG_LINKS: Final = frozenset({("wheeled_vehicle.n.01", "container.n.01")})
"""Hypernym links of WordNet 3.0 that mislead, as (synset, hypernym): a car is no co-hyponym of a cup."""
