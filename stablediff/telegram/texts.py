"""Everything that the bot says, in English and Russian. Plain text: nothing in it is markup."""

LANGUAGES = ("en", "ru")

_TEXTS: dict[str, tuple[str, str]] = {
    "hello": (
        "Hello! I draw what you describe. All pictures here are made by AI ({model}).\n\n"
        "Just write what you want to see, as: {example}\n"
        "Or send a photo with that as its caption, and I start from it.\n/help",
        "Привет! Я рисую то, что вы опишете. Все картинки здесь создаёт ИИ ({model}).\n\n"
        "Просто напишите, что хотите увидеть, например: {example}\n"
        "Или пришлите фото с такой подписью, и я начну с него.\n/help",
    ),
    "first": ("Pictures here are made by AI. /privacy says what is kept.",
              "Картинки здесь создаёт ИИ. /privacy — что хранится."),
    "help": (
        "Write what you want to see. In groups: /gen@{username}, a mention, or an answer to me.\n\n"
        "/{gen} {example} --steps 12 --seed 7 --size 512x768 --guidance 6 --sampler dpmpp_2m --pictures 2 --no blurry\n"
        "Flags may stand on lines of their own; other lines below the first are the negative prompt, too. As an "
        "answer to a photo, /gen starts from it; "
        "--strength 0.9 says how far it goes.\n\n"
        "/sticker draws a sticker\n/settings your usual size, steps and language\n/queue where you stand\n"
        "/cancel stops everything of yours\n/history your last pictures\n/pack your sticker packs\n"
        "/privacy what is kept\n/delete forgets you\n\n"
        "In any chat, @{username} and a word finds your pictures.",
        "Напишите, что хотите увидеть. В группах: /gen@{username}, упоминание или ответ мне.\n\n"
        "/{gen} {example} --шаги 12 --зерно 7 --размер 512x768 --следование 6 --сэмплер dpmpp_2m --картинок 2 "
        "--без туман\n"
        "Флаги могут стоять отдельными строками, остальные строки под первой — тоже негативный запрос. В ответ на "
        "фото /gen начнёт с него; "
        "--сила 0.9 — насколько его менять.\n\n"
        "/sticker рисует стикер\n/settings обычный размер, шаги и язык\n/queue ваше место в очереди\n"
        "/cancel останавливает всё ваше\n/history последние картинки\n/pack ваши наборы стикеров\n"
        "/privacy что хранится\n/delete забыть вас\n\n"
        "В любом чате @{username} и слово найдут ваши картинки.",
    ),
    "begun": ("Beginning: {prompt}", "Начинаю: {prompt}"),
    "queued": ("In the queue, place {place}: {prompt}", "В очереди, место {place}: {prompt}"),
    "drawing": ("Drawing, step {step} of {total}{left}", "Рисую, шаг {step} из {total}{left}"),
    "seconds left": (", about {seconds} s left", ", осталось около {seconds} с"),
    "arriving": ("Here it comes …", "Сейчас будет …"),
    "seed": ("seed {seed}", "зерно {seed}"),
    "seeds": ("{count} pictures, seeds {first}–{last}", "Картинок: {count}, зерно {first}–{last}"),
    "without": ("without: {words}", "без: {words}"),
    "strength of": ("strength {strength}", "сила {strength}"),
    "stopped": ("Stopped: {done} of {count} pictures were finished.", "Остановлено: готово {done} из {count}."),
    "cancelled": ("Cancelled.", "Отменено."),
    "nothing to cancel": ("There is nothing of yours to cancel.", "Отменять нечего."),
    "cancelling": ("Stopping what you wished for: {count}.", "Останавливаю ваши запросы: {count}."),
    "too late": ("It is too late to cancel this one.", "Это уже не отменить."),
    "say what": ("Say what to draw, as in: /{command} {example}", "Напишите, что нарисовать: /{command} {example}"),
    "photo needs caption": (
        "Send the photo again with a caption that says what it should become.",
        "Пришлите фото ещё раз с подписью: во что его превратить.",
    ),
    "not for me": (
        "I read words and pictures (PNG, JPEG or WebP): write what you want to see.",
        "Я читаю слова и картинки (PNG, JPEG или WebP): напишите, что хотите увидеть.",
    ),
    "not a picture": (
        "of files, I read pictures only: PNG, JPEG or WebP", "из файлов я читаю только картинки: PNG, JPEG или WebP"),
    "not fetched": (
        "Telegram does not hand over your picture. Send it again.",
        "Telegram не отдаёт вашу картинку. Пришлите её ещё раз.",
    ),
    "file too large": (
        "this file has {size} MB, and Telegram lets me read at most {limit}",
        "в этом файле {size} МБ, а Telegram даёт мне читать не больше {limit}",
    ),
    "refused": ("That does not work: {reason}", "Так не получится: {reason}"),
    "too many": (
        "You have {count} wishes waiting already: wait for one, or /cancel.",
        "У вас уже {count} в очереди: дождитесь одной или /cancel.",
    ),
    "quota": (
        "This would cost {cost}; of your {daily} pictures a day {left} remain. Fewer pictures, fewer steps or a "
        "smaller size cost less; tomorrow (UTC) there are new ones.",
        "Это стоит {cost}, а из ваших {daily} картинок в день осталось {left}. Меньше картинок, шагов или размер — "
        "дешевле; завтра (UTC) будут новые.",
    ),
    "too fast": (
        "That was more than I can answer at once, so some of your messages were not heard. Please send them again.",
        "Это больше, чем я успеваю, часть сообщений не услышана. Пришлите их, пожалуйста, снова.",
    ),
    "full": ("Too many want pictures now. Please try again later.", "Сейчас много желающих. Попробуйте позже."),
    "failed": ("This could not be drawn: {reason}", "Это нарисовать не удалось: {reason}"),
    "broken": (
        "Something broke here. The operator finds it in the log as {code}.",
        "Что-то сломалось. Оператор найдёт это в журнале как {code}.",
    ),
    "no room": (
        "The disk here is full. Your wish is not lost: it goes on as soon as there is room.",
        "Здесь кончилось место на диске. Ваш запрос не пропал: продолжу, как только место появится.",
    ),
    "no room for more": (
        "The disk here is full, so this could not be noted. Please try again later.",
        "Здесь кончилось место на диске, и записать это не удалось. Попробуйте позже.",
    ),
    "gave up": (
        "The program was stopped {count} times over this one, so I leave it.",
        "На этом задании программа прерывалась {count} раза, больше не пробую.",
    ),
    "empty queue": ("Nothing of yours is waiting.", "Ничего вашего в очереди нет."),
    "queue": ("Yours, of {count} in the queue:", "Всего в очереди: {count}. Ваши:"),
    "queue line": ("{place}. {prompt}", "{place}. {prompt}"),
    "queue now": ("now: {prompt}", "сейчас: {prompt}"),
    "history": ("Your last pictures. A button sends one again.", "Ваши последние картинки. Кнопка пришлёт снова."),
    "no history": ("There are no pictures of yours.", "Ваших картинок нет."),
    "settings": (
        "Your settings. What a command says itself goes before them.",
        "Ваши настройки. Указанное в самой команде важнее.",
    ),
    "choose": ("{name}: what shall be usual?", "{name}: что будет обычным?"),
    "back": ("Back", "Назад"),
    "usual": ("as the model", "как у модели"),
    "language": ("Language", "Язык"),
    "size": ("Size", "Размер"),
    "steps": ("Steps", "Шаги"),
    "pictures": ("Pictures", "Картинок"),
    "sampler": ("Sampler", "Сэмплер"),
    "saved": ("Saved.", "Сохранено."),
    "again": ("Again", "Ещё раз"),
    "variations": ("Variations", "Вариации"),
    "upscale": ("Upscale", "Увеличить"),
    "file": ("Lossless file", "Файл без потерь"),
    "to pack": ("Add to my sticker pack", "В мой набор стикеров"),
    "settings button": ("Settings", "Настройки"),
    "copy": ("Copy command", "Скопировать команду"),
    "cancel": ("Cancel", "Отменить"),
    "send again": ("Send again", "Прислать снова"),
    "sticker ready": ("Your sticker: {prompt}\n{details}", "Ваш стикер: {prompt}\n{details}"),
    "stickers ready": ("Your stickers: {prompt}\n{details}", "Ваши стикеры: {prompt}\n{details}"),
    "sticker unsure": (
        "The connection broke while the sticker was on its way. If it is not below, press Send again.",
        "Связь прервалась, пока стикер был в пути. Если его нет ниже, нажмите «Прислать снова».",
    ),
    "album unsure": (
        "The connection broke while the pictures were on their way. If they are not below, press Send again.",
        "Связь прервалась, пока картинки были в пути. Если их нет ниже, нажмите «Прислать снова».",
    ),
    "pack waits": (
        "Telegram does not take it into your pack yet. It comes in as soon as that works.",
        "Telegram пока не принимает стикер в ваш набор. Он появится там, как только это получится.",
    ),
    "pack done": ("It is in your pack: {link}", "Стикер в вашем наборе: {link}"),
    "not taken": ("Telegram did not take it: {reason}", "Telegram не принял: {reason}"),
    "packs": ("Your packs:\n{links}", "Ваши наборы:\n{links}"),
    "no packs": (
        "You have no pack yet: press “Add to my sticker pack” under a picture. /pack TITLE names the next one.",
        "Наборов пока нет: нажмите «В мой набор стикеров» под картинкой. /pack НАЗВАНИЕ назовёт следующий.",
    ),
    "pack named": ("Your next sticker starts the pack “{title}”.", "Следующий стикер начнёт набор «{title}»."),
    "pack title": ("{name}'s stickers", "Стикеры: {name}"),
    "gone": ("This picture is no longer kept.", "Эта картинка больше не хранится."),
    "not yours": ("This is somebody else's.", "Это чужое."),
    "not your picture": (
        "This is somebody else's. Copy its command, or answer it with /gen and what it should become.",
        "Это чужое. Скопируйте команду или ответьте на картинку: /gen и во что её превратить.",
    ),
    "unknown button": ("This button is no longer in use.", "Эта кнопка больше не работает."),
    "in private": ("Please ask me in private: https://t.me/{username}", "Об этом — в личном чате: https://t.me/{username}"),
    "group not listed": (
        "This group ({chat}) is not on my list: ask my operator.",
        "Этой группы ({chat}) нет в моём списке: спросите оператора.",
    ),
    "english only": (
        "\n\nThis model knows English words only: write your prompt in English.",
        "\n\nЭта модель понимает только английские слова: напишите запрос по-английски.",
    ),
    "banned": ("You may not use this bot.", "Вам нельзя пользоваться этим ботом."),
    "privacy": (
        "Kept here: your Telegram number, your settings, your prompts, the pictures that you send and those that are "
        "drawn for you, for {days} days; the names of your sticker packs until /delete. Prompts are not logged, photos "
        "lose their EXIF data, and nothing is passed on. What was sent to a chat, and sticker packs, are kept by "
        "Telegram. /delete removes everything here at once (a ban, if there is one, stays).",
        "Здесь хранятся: ваш номер в Telegram, настройки, запросы, присланные и нарисованные картинки — {days} дн.; "
        "названия наборов стикеров — до /delete. Запросы не пишутся в журнал, у фото удаляется EXIF, никому ничего не "
        "передаётся. Отправленное в чат и наборы стикеров хранит Telegram. /delete сразу удалит всё здесь "
        "(кроме запрета, если он есть).",
    ),
    "delete?": (
        "Forget your prompts, pictures, settings and waiting wishes? What is in the chats stays there.{packs}",
        "Забыть ваши запросы, картинки, настройки и очередь? То, что в чатах, останется.{packs}",
    ),
    "delete packs": ("\nYour packs stay with Telegram:\n{links}", "\nНаборы останутся в Telegram:\n{links}"),
    "yes": ("Yes, forget me", "Да, забыть"),
    "no": ("No", "Нет"),
    "deleted": ("Done: nothing about you is left here.", "Готово: здесь ничего о вас не осталось."),
    "kept": ("Nothing was deleted.", "Ничего не удалено."),
    "stats": (
        "Users {users} · jobs {jobs} (today {today}) · waiting {waiting} · drawing {drawing} · on disk {megabytes} MB",
        "Пользователи {users} · задания {jobs} (сегодня {today}) · ждут {waiting} · рисуются {drawing} · "
        "на диске {megabytes} МБ",
    ),
    "ban how": ("/ban ID, or as an answer; once more lifts it.", "/ban ID или в ответ; ещё раз — снять."),
    "ban not": ("Neither me nor an admin.", "Ни меня, ни администратора."),
    "ban on": ("{user} is banned.", "{user}: запрещено."),
    "ban off": ("{user} is free again.", "{user}: запрет снят."),
    "inline none": ("No picture of yours has these words", "Среди ваших картинок такой нет"),
    "anonymous": (
        "I cannot tell apart who writes for a group or a channel: please write under your own name.",
        "Кто пишет от имени группы или канала, я не различаю: напишите, пожалуйста, от своего имени.",
    ),
    "command note": (
        "This picture was drawn from another one. Send the command as an answer to that one:",
        "Эта картинка нарисована по другой. Отправьте команду ответом на неё:",
    ),
    "inline hint": ("Draw something first", "Сначала нарисуйте что-нибудь"),
    "unknown command": ("I do not know this command. /help", "Такой команды нет. /help"),
}  # fmt: skip

COMMANDS: dict[str, tuple[str, str]] = {
    "gen": ("draw a picture", "нарисовать картинку"),
    "sticker": ("draw a sticker", "нарисовать стикер"),
    "settings": ("your usual size, steps, language", "размер, шаги, язык"),
    "queue": ("where you stand", "место в очереди"),
    "cancel": ("stop everything of yours", "остановить всё ваше"),
    "history": ("your last pictures", "последние картинки"),
    "pack": ("your sticker packs", "ваши наборы стикеров"),
    "privacy": ("what is kept", "что хранится"),
    "delete": ("forget me", "забыть меня"),
    "help": ("how it works", "как это работает"),
}


def text(language: str, key: str, **values: object) -> str:
    return _TEXTS[key][LANGUAGES.index(language)].format(**values)


def shorten(words: str, limit: int) -> str:
    """At most `limit` of the units in which Telegram counts (UTF-16)."""
    data = words.encode("utf-16-le")
    return words if len(data) <= 2 * limit else data[: 2 * limit - 2].decode("utf-16-le", "ignore") + "…"
