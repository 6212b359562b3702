"""The page's words in all its languages."""

FIRST = "en"
LANGUAGES = {"en": "English", "ru": "Русский"}


def text(key: str, language: str, **values: object) -> str:
    """The words for `key`, with the values filled in."""
    english, russian = TEXTS[key]
    return (russian if language == "ru" else english).format(**values)


def decimal(number: float, digits: int, language: str) -> str:
    """ "2.5", with the language's own sign."""
    written = f"{number:.{digits}f}"
    return written.replace(".", ",") if language == "ru" else written


TEXTS = {
    # the head and the tabs
    "dark": ("◐ Theme", "◐ Тема"),
    "model": ("Model", "Модель"),
    "loaded": ("The model {model} is ready.", "Модель {model} готова."),
    "model_switched": (
        "Somebody else has chosen the model {model}: it draws for all, with its own settings.",
        "Кто-то выбрал модель {model}: теперь она рисует для всех, со своими настройками.",
    ),
    "tab_create": ("Create", "Создать"),
    "tab_edit": ("Edit", "Изменить"),
    "tab_inside": ("Inside", "Внутри"),
    "tab_compare": ("Compare", "Сравнить"),
    "tab_history": ("History", "История"),
    # what to draw
    "prompt": ("Prompt", "Запрос"),
    "prompt_hint": ("What to draw", "Что нарисовать"),
    "negative": ("Negative prompt", "Чего избегать"),
    "negative_hint": ("What to steer away from", "Чего не должно быть"),
    "style": ("Style", "Стиль"),
    "style_none": ("None", "Без стиля"),
    "style_flat": ("Flat", "Плоский"),
    "style_soft": ("Soft", "Мягкий"),
    "style_glossy": ("Glossy", "Глянцевый"),
    "style_bold": ("Bold", "Яркий"),
    "style_pixel": ("Pixel", "Пиксельный"),
    "style_line": ("Line", "Контурный"),
    "style_photo": ("Photograph", "Фотография"),
    "style_oil": ("Oil painting", "Масло"),
    "style_watercolour": ("Watercolour", "Акварель"),
    "style_ink": ("Ink", "Тушь"),
    "style_render": ("3D render", "3D"),
    "try": ("Try:", "Например:"),
    "knows": ("The {count} things that this model knows", "Что знает эта модель: {count}"),
    "knows_more": (
        "It also draws “three apples”, “a fox to the left of a banana” and “a fox above a banana”, though not every "
        "picture comes out right. Two things in two colours do every other time.",
        "Рисует и «три яблока», и «лиса слева, банан справа», и «лиса сверху, банан снизу», хотя удаётся не каждая "
        "картинка. Два предмета разных цветов удаются через раз.",
    ),
    "draw": ("Draw", "Нарисовать"),
    "stop": ("Stop", "Стоп"),
    "tokens_one": ("{count} of {length} tokens", "токенов: {count} из {length}"),
    "tokens_more": (
        "{count} tokens in {chunks} parts of up to {length}: all are read",
        "токенов: {count}, частей до {length}: {chunks}; прочитаны будут все",
    ),
    "chunk": ("part {number} begins here", "отсюда часть {number}"),
    "strangers": ("The model has not learnt these words: {words}", "Модель не знает этих слов: {words}"),
    # how to draw
    "quality": ("Quality", "Качество"),
    "quality_info": (
        "Sets steps, sampler, schedule and where the prompt is followed",
        "Задаёт шаги, сэмплер, расписание и где следовать запросу",
    ),
    "draft": ("Draft", "Черновик"),
    "balanced": ("Balanced", "Обычное"),
    "best": ("Best", "Лучшее"),
    "own_steps": ("Your own steps", "Свои шаги"),
    "in_seconds": ("The best in the time below", "Лучшее за время ниже"),
    "budget": ("Seconds for all pictures", "Секунд на все картинки"),
    "budget_short": (
        "Not even one step fits into {number} s: give more time, or choose a smaller size or fewer pictures",
        "За {number} с не успеть и одного шага: дайте больше времени, выберите размер поменьше или меньше картинок",
    ),
    "budget_few": (
        "{number} steps rarely make a good picture, {fewest} would: give more time, or draw less or smaller",
        "Шагов мало: {number}, хорошая картинка выходит с {fewest}. Дайте больше времени, уменьшите размер или число",
    ),
    "steps": ("Steps", "Шаги"),
    "guidance": ("Guidance (1 is none)", "Следование запросу (1 — нет)"),
    "size": ("Size", "Размер"),
    "square": ("Square", "Квадрат"),
    "tall": ("Tall", "Высокий"),
    "wide": ("Wide", "Широкий"),
    "count": ("Pictures", "Сколько картинок"),
    "seed": ("Seed", "Зерно"),
    "seed_random": ("random", "случайное"),
    "dice": ("New", "Новое"),
    "lock": ("Keep", "То же"),
    "more": ("Sampler and schedule", "Сэмплер и расписание"),
    "sampler": ("Sampler", "Сэмплер"),
    "spacing": ("Schedule", "Расписание шума"),
    "spacing_own": ("the model's own", "как принято у модели"),
    "interval": ("Noise levels with guidance", "Уровни шума со следованием запросу"),
    "interval_all": ("all", "все"),
    "interval_info": (
        "As 0.28-5.42, or 0.5- without an end: without guidance a step takes half the time",
        "Например, 0.28-5.42 или 0.5- без верхней границы: без следования запросу шаг вдвое быстрее",
    ),
    "estimate": ("About {seconds} and {memory} GB of memory", "Примерно {seconds} и {memory} ГБ памяти"),
    "measuring_first": ("Measuring how fast this machine is…", "Измеряется скорость этой машины…"),
    "seconds": ("{number} s", "{number} с"),
    "minutes": ("{number} min", "{number} мин"),
    # how it goes
    "waiting": ("In the queue: {place} before you", "В очереди: перед вами {place}"),
    "starting": ("Starting", "Начинаем"),
    "downloading": ("Downloading the model {model}: {percent}%", "Скачивается модель {model}: {percent} %"),
    "loading": ("Loading the model {model}: {percent}%", "Загружается модель {model}: {percent} %"),
    "measuring": ("Measuring how fast {model} is here", "Измеряется скорость модели {model}"),
    "stopping": ("Stopping", "Останавливаем"),
    "doing_encode": ("Reading the prompt", "Читаем запрос"),
    "doing_denoise": ("Drawing: step {step} of {total}", "Рисуем: шаг {step} из {total}"),
    "doing_decode": ("Developing the picture", "Проявляем картинку"),
    "picture_of": ("Picture {number} of {total}", "Картинка {number} из {total}"),
    "left": ("about {seconds} left", "осталось около {seconds}"),
    "progress": ("progress", "ход работы"),
    "drawn": ("Drawn in {seconds} s with seed {seed}", "Готово за {seconds} с, зерно {seed}"),
    "seeds_to": (" to {last}", "–{last}"),
    "stopped": ("Stopped before a picture was finished.", "Остановлено: ни одна картинка не готова."),
    "stopped_with": ("Stopped. Pictures kept: {kept}.", "Остановлено. Сохранено картинок: {kept}."),
    # what there is
    "pictures": ("Pictures", "Картинки"),
    "download": ("Download with its recipe", "Скачать вместе с рецептом"),
    "recipe": ("Recipe", "Рецепт"),
    "delete": ("Delete", "Удалить"),
    "vary": ("Variations", "Варианты"),
    "upscale": ("Draw it twice as large", "Нарисовать вдвое крупнее"),
    "sticker": ("Telegram sticker", "Стикер для Telegram"),
    "sticker_file": ("Download the sticker (WEBP, 512×512)", "Скачать стикер (WEBP, 512×512)"),
    "sticker_ready": (
        "The sticker is ready: transparent, with a white outline.",
        "Стикер готов: прозрачный, с белым контуром.",
    ),
    "edit_it": ("Edit it", "Изменить"),
    "restore": ("Restore the settings of a picture", "Вернуть настройки картинки"),
    "restore_file": ("A PNG from here or from A1111", "PNG отсюда или из A1111"),
    "restored": ("The settings are those of the picture.", "Настройки взяты из картинки."),
    "restored_loras": (
        "The settings are those of the picture, which was drawn with a LoRA besides: {loras}",
        "Настройки взяты из картинки; она рисовалась ещё и с LoRA: {loras}",
    ),
    # looking inside
    "watch": ("Draw and watch", "Нарисовать и показать, как"),
    "watch_how": (
        "Draws one picture of the first tab, and keeps what the sampler and the network did at every step.",
        "Рисует одну картинку с первой вкладки и запоминает, что на каждом шаге делали сэмплер и сеть.",
    ),
    "scrub": ("Step", "Шаг"),
    "play": ("▶ Play", "▶ Смотреть"),
    "pause": ("❚❚ Pause", "❚❚ Пауза"),
    "film_file": ("Download as a GIF for slides", "Скачать GIF для слайдов"),
    "strip": ("x_t above, x_0 below; click to go to a step", "Сверху x_t, снизу x_0; нажмите, чтобы перейти к шагу"),
    "strip_step": ("step {step}", "шаг {step}"),
    "seen": ("x_t: what the network sees", "x_t: что видит сеть"),
    "believed": ("x_0: what it believes is behind", "x_0: что, по её мнению, за шумом"),
    "word": ("Where does it read the word…", "Где на картинке читается слово…"),
    "heat": ("The word in the picture", "Слово на картинке"),
    "our_code": ("The code that made this step", "Код, который сделал этот шаг"),
    "made_by": ("Made by {place}", "Вычислено в {place}"),
    "place": ("{file}, line {line}", "{file}, строка {line}"),
    "noise_levels": ("Noise levels of the run, logarithmic", "Уровни шума, логарифмически"),
    "eps_long": ("|ε|, the noise that the network sees in x", "|ε|, шум, который сеть видит в x"),
    "delta_long": ("what guidance adds, (s - 1)·|cond - uncond|", "вклад следования запросу, (s - 1)·|cond - uncond|"),
    "no_guidance": ("none at this step", "на этом шаге нет"),
    # comparing
    "compare": ("Compare", "Сравнить"),
    "compare_how": (
        "Draws the first tab's wish with other values of one or two parameters, always from the same noise.",
        "Рисует запрос с первой вкладки при разных значениях одного или двух параметров, всегда из одного шума.",
    ),
    "axis_across": ("Across", "По горизонтали"),
    "axis_down": ("Down", "По вертикали"),
    "axis_values": ("Values", "Значения"),
    "axis_hint": (
        "With commas between them; prompts with a line for each",
        "Через запятую; запросы — каждый на своей строке",
    ),
    "axis_nothing": ("Nothing", "Ничего"),
    "axis_prompt": ("Prompt", "Запрос"),
    "axis_negative_prompt": ("Negative prompt", "Чего избегать"),
    "axis_num_steps": ("Steps", "Шаги"),
    "axis_guidance_scale": ("Guidance", "Следование запросу"),
    "axis_guidance_rescale": ("Guidance rescale", "Смягчение следования"),
    "axis_sampler": ("Sampler", "Сэмплер"),
    "axis_spacing": ("Schedule", "Расписание шума"),
    "axis_seed": ("Seed", "Зерно"),
    "axis_size": ("Size", "Размер"),
    "cost": ("Pictures: {count}. About {seconds} in all.", "Картинок: {count}. Всего примерно {seconds}."),
    "compared": ("Compared in {seconds}, from the noise of seed {seed}.", "Готово за {seconds}, шум от зерна {seed}."),
    "comparison": ("Comparison", "Сравнение"),
    # what was drawn before
    "history_again": ("Use its settings", "Взять настройки"),
    "history_download": ("Download", "Скачать"),
    "history_kept": (
        "Kept in this browser only, up to 200 pictures.",
        "Хранится только в этом браузере, до 200 картинок.",
    ),
    "history_kept_here": (
        "Kept in this browser and on this server, up to 200 pictures.",
        "Хранится в этом браузере и на этом сервере, до 200 картинок.",
    ),
    "history_clear": ("Delete all", "Удалить всё"),
    "history_sure": ("Delete all of them? Press again", "Удалить все? Нажмите ещё раз"),
    "history_empty": (
        "Nothing yet. What you draw is kept here.",
        "Пока пусто. Здесь хранится то, что вы нарисовали.",
    ),
    # changing a picture
    "edit": ("Change it", "Изменить"),
    "edit_picture": ("Picture", "Картинка"),
    "edit_drop": ("Drop a picture here", "Перетащите сюда картинку"),
    "edit_how": (
        "Paint over what shall be drawn anew; unpainted, all of it is. Steps, guidance, sampler, seed and number are "
        "those of the first tab.",
        "Закрасьте то, что нарисовать заново; если ничего не закрасить, изменится вся картинка. Шаги, сэмплер, "
        "зерно и число картинок — с первой вкладки.",
    ),
    "edit_hint": ("What it shall become", "Что должно получиться"),
    "strength": ("Strength", "Сила изменения"),
    "strength_info": (
        "0 keeps the picture, 1 forgets it: best for a part that is painted over",
        "0 — оставить как есть, 1 — забыть картинку: лучше всего для закрашенной части",
    ),
    "before_after": ("Before and after", "До и после"),
}
