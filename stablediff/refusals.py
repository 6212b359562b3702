"""The package's refusals and notes, which are English, in other languages: patterns of whole messages."""

import re

from stablediff.model_refusals import MODEL_REFUSALS

PARAMETERS = {
    "ru": {
        "prompt": "запрос",
        "negative_prompt": "«чего избегать»",
        "seed": "зерно",
        "width": "ширина",
        "height": "высота",
        "num_steps": "число шагов",
        "guidance_scale": "следование запросу",
        "num_images": "число картинок",
        "strength": "сила",
        "guidance_rescale": "смягчение следования",
        "init_image": "картинка",
        "mask_image": "маска",
        "sampler": "сэмплер",
        "spacing": "расписание шума",
        "eta": "eta",
        "size": "размер",
        "axis": "ось",
        "encode": "чтение",
        "denoise": "рисование",
        "decode": "проявление",
    }
}

REFUSALS = {
    "ru": {
        r"time_budget_s is (?P<value>.+): choose a number of seconds above 0, at most (?P<high>\S+) \(a day\)": (
            "время: {value}. Нужно число секунд больше 0, не больше {high} (сутки)"
        ),
        r"time_budget_s is (?P<value>.+), and one step takes about (?P<low>\S+) s here, .*": (
            "время: {value} с, а один шаг с проявлением занимает здесь около {low} с. Дайте больше времени, выберите "
            "меньший размер, меньше картинок или модель меньше"
        ),
        r"time_budget_s is (?P<value>.+) with (?P<name>\w+) (?P<low>.+), which is what a budget chooses: .*": (
            "время: {value} с, а {name}: {low} выбирается под это время. Уберите одно из двух"
        ),
        r"memory ran out while this machine was measured: .*": (
            "не хватило памяти, чтобы измерить эту машину: выберите меньший размер"
        ),
        r"prompt is empty: .*": "запрос пуст: напишите, что нарисовать",
        r"(?P<name>\w+) is (empty|None): write a whole number": "{name}: пусто. Напишите целое число",
        r"(?P<name>\w+) is empty: write a number": "{name}: пусто. Напишите число",
        r"(?P<name>\w+) is None: .*": "{name}: пусто. Напишите число",
        r"(?P<name>\w+) is (?P<value>.+): it must be a whole number from (?P<low>\S+) to (?P<high>\S+)": (
            "{name}: {value}. Нужно целое число от {low} до {high}"
        ),
        r"(?P<name>\w+) is (?P<value>.+): it must be (text|a whole number|a Pillow picture).*": (
            "{name}: {value}. Такое значение не годится"
        ),
        r"(?P<name>\w+) has no pixels .*": "картинка пуста: выберите другую",
        r"guidance_interval is .*": "интервал следования запросу задан неверно",
        r"(?P<value>.+) is no interval: .*": (
            "{value}: это не интервал. Напишите два уровня шума, сначала меньший: 0.28-5.42 или 0.28- (без границы)"
        ),
        r"there is a mask_image and no init_image: .*": "есть маска, но нет картинки: добавьте картинку",
        r"the recipe has (?P<name>.+): (?P<value>.+), which is no (whole )?number: .*": (
            "в рецепте {name}: {value}, а это не число"
        ),
        r"the recipe has (?P<count>\S+) characters: at most (?P<high>\S+) are read": (
            "в рецепте {count} знаков, читается не больше {high}"
        ),
        r"the picture has more than (?P<count>\d+) million pixels: .*": (
            "картинка больше {count} млн пикселей: уменьшите её"
        ),
        r"there is no picture .+: check its name": "такой картинки нет: проверьте имя",
        r"your network has (?P<count>\d+) jobs in the queue: .*": (
            "из вашей сети в очереди уже заданий: {count}. Дождитесь одного из них"
        ),
        r"the server no longer has this job.*": ("на сервере этого задания больше нет: начните его снова"),
        r"(?P<name>\w+) is (?P<value>.+): choose (?P<low>\S+) to (?P<high>\S+)": (
            "{name}: {value}. Выберите от {low} до {high}"
        ),
        r"(?P<name>\w+) is (?P<value>.+): choose at most (?P<high>\d+) here": "{name}: {value}. Здесь не больше {high}",
        r"(?P<name>\w+) is (?P<value>.+): write a whole number": "{name}: {value}. Напишите целое число",
        r"(?P<name>\w+) is (?P<value>.+): choose a multiple of (?P<step>\d+), such as (?P<low>\d+) or (?P<high>\d+)": (
            "{name}: {value}. Нужно кратное {step}, например {low} или {high}"
        ),
        r"seed is (?P<value>.+) with (?P<count>\d+) pictures: choose at most (?P<high>\d+)": (
            "зерно: {value} при {count} картинках. Не больше {high}"
        ),
        r"['\"]?(?P<value>.+?)['\"]? is not a size: .*": (
            "«{value}» — не размер. Напишите ширину и высоту в пикселях, как 512x512"
        ),
        r"(?P<name>\w+) has (?P<value>\S+) characters: shorten it to at most (?P<high>\S+) .*": (
            "{name}: {value} знаков. Сократите до {high}"
        ),
        r"you have (?P<count>\d+) jobs in the queue: .*": (
            "у вас уже заданий в очереди: {count}. Дождитесь или остановите"
        ),
        r"the queue is full .*": "очередь заполнена, попробуйте через минуту",
        r"the lcm spacing has (?P<high>\d+) timesteps, not (?P<value>\d+): .*": (
            "в расписании lcm {high} шагов, а не {value}: уменьшите число шагов"
        ),
        r"the negative prompt had no effect.*": (
            "«чего избегать» не подействовало: без следования запросу (больше 1) его нет"
        ),
        r"the model has not learnt these words, and can only guess: (?P<words>.+)": (
            "модель не знает этих слов и может только догадываться: {words}"
        ),
        r"the picture is much longer in one direction.*": "картинка слишком вытянута: обрежьте её",
        r"the picture is missing.*": "картинки нет: перетащите её на холст или выберите файл",
        r"cannot read the picture that was sent.*": "картинка не читается: нужен целый файл PNG, JPEG или WebP",
        r"the picture that was sent has (?P<width>\d+) x (?P<height>\d+) pixels: .* at most (?P<high>\d+) million": (
            "в картинке {width} × {height} пикселей: уменьшите её, не больше {high} млн"
        ),
        r"the picture that was sent has far too many pixels: .* at most (?P<high>\d+) million": (
            "в картинке слишком много пикселей: уменьшите её, не больше {high} млн"
        ),
        r"\w+ cannot be read \(.*": "картинка не читается: выберите другую",
        r"cannot read the picture .*": "картинка не читается: нужен целый файл PNG, JPEG или WebP",
        r"the picture .+ has (?P<width>\d+) x (?P<height>\d+) pixels: .*": (
            "в картинке {width} × {height} пикселей, это слишком много: уменьшите её"
        ),
        r"the picture .+ has far too many pixels: .* at most (?P<high>\d+) million": (
            "в картинке слишком много пикселей: уменьшите её, не больше {high} млн"
        ),
        r"what was painted cannot be read.*": "закрашенное не читается: закрасьте ещё раз",
        r"strength is 0, which would change nothing.*": "сила: 0 ничего не изменит. Выберите больше 0, до 1",
        r"(?P<name>\w+) is (?P<value>.+): it must be a number from (?P<low>\S+) to (?P<high>\S+)": (
            "{name}: {value}. Нужно число от {low} до {high}"
        ),
        r"the picture has no recipe.*": "в картинке нет рецепта: нужен PNG отсюда или из AUTOMATIC1111",
        r"the picture is empty.*": "картинка пуста или одноцветна: стикер делать не из чего",
        r"there is no picture yet.*": "картинки ещё нет: сначала нарисуйте её",
        r"(?P<name>\w+) has no values to compare.*": "{name}: напишите значения для сравнения",
        r"both axes are the same.*": "обе оси одинаковы: выберите для второй другую",
        r"the grid has (?P<count>\d+) pictures: choose at most (?P<high>\d+) here": (
            "картинок в сравнении: {count}. Здесь не больше {high}"
        ),
        r"(?P<name>\w+) is (?P<value>.+): write numbers with commas between them": (
            "{name}: {value}. Напишите числа через запятую"
        ),
        r"something went wrong here.*": "здесь что-то сломалось, запись об этом в журнале сервера: попробуйте ещё раз",
        r"(?P<name>\w+) has characters that are not in Unicode.*": "{name}: есть знаки не из Юникода, наберите заново",
        r"(?P<name>\w+) ['\"](?P<value>.*)['\"] is not known: choose one of (?P<words>.+)": (
            "{name}: «{value}» — такого нет. Выберите из: {words}"
        ),
        r"(?P<name>\w+) (?P<value>.+) is not known: choose one of (?P<words>.+)": (
            "{name}: {value} — такого нет. Выберите из: {words}"
        ),
        r"eta is (?P<value>\S+), which only the samplers (?P<words>.+) know.*": (
            "eta: {value} — её знают только сэмплеры {words}. Выберите один из них"
        ),
        r"align_your_steps is known for .*": (
            "align_your_steps есть только для расписания шума SD 1.x, 2.x и SDXL, а у модели другое: "
            "выберите karras или trailing"
        ),
        r"--(?P<flag>\w+) is ['\"](?P<value>.*)['\"]: write a whole number": (
            "--{flag}: «{value}». Напишите целое число"
        ),
        r"--(?P<flag>\w+) is ['\"](?P<value>.*)['\"]: write a number": "--{flag}: «{value}». Напишите число",
        r"['\"](?P<value>.+)['\"] stands behind a flag: .*": (
            "«{value}» стоит после флага: напишите это в первой строке или отдельной строкой"
        ),
        r"--strength is for pictures that start from another: .*": (
            "--сила нужна, когда есть исходная картинка: пришлите запрос подписью к фото или ответом на фото"
        ),
        r"the picture .+ has a side of (?P<value>\d+) pixels: .* at most (?P<high>\d+)": (
            "сторона картинки {value} пикселей: уменьшите её, не больше {high}"
        ),
        r"there is no --(?P<flag>\w+): I know (?P<words>.+)": (
            "флага --{flag} нет. Есть --шаги, --зерно, --размер, --картинок, --без, --сила, --следование, --сэмплер, "
            "--расписание, --eta"
        ),
        r"--(?P<flag>\w+) needs a value behind it": "после --{flag} нужно значение",
        r"this model's U-Net takes .*": "эта модель правит картинки или увеличивает их, а не рисует по словам",
        r"the model gave numbers that are not finite .*": (
            "в модели получились не числа: попробуйте следовать запросу слабее, меньшие веса слов или другой сэмплер; "
            "если не поможет, файл модели повреждён"
        ),
        r"(?P<value>\d+x\d+) does not fit into memory.*": (
            "{value} не помещается в память, даже одна картинка по частям: выберите меньший размер"
        ),
        r"merged_tokens changes layers that are compiled.*": "слияние ячеек не для скомпилированной модели",
        r"nobody can look into a compiled U-Net.*": "в скомпилированную модель не заглянуть",
        r"compiling for this size took about (?P<seconds>\S+) s, once: a step takes (?P<step>\S+) s now": (
            "компиляция под этот размер заняла около {seconds} с, один раз: шаг теперь занимает {step} с"
        ),
        r"(?P<low>\w+) overflowed \(stage (?P<name>\w+).*\), so that part was done again in (?P<high>\w+)": (
            "точности {low} не хватило ({name}), эта часть сделана заново в {high}"
        ),
        r"memory was short: (?P<count>\d+) picture.*": "памяти было мало: картинок за раз — {count}",
    }
}


_SMALL = {"ru": {"about ": "около ", " or ": " или "}}  # inside values


def _word(part: str, language: str) -> str:
    for english, other in _SMALL[language].items():
        part = part.replace(english, other) if re.fullmatch(r"about -?2\^\d+|\w+( or \w+)+", part) else part
    return PARAMETERS[language].get(part, part)


def translate(message: str, language: str) -> str:
    """A message of the package in that language, or as it is where there are no words for it."""
    patterns = REFUSALS.get(language, {}) | MODEL_REFUSALS.get(language, {})
    for pattern, translated in patterns.items():
        match = re.fullmatch(pattern, message, re.DOTALL)
        if match:
            parts = match.groupdict()
            words = {name: part if name == "flag" else _word(part, language) for name, part in parts.items() if part}
            return translated.format(**{**dict.fromkeys(parts, ""), **words}).replace("(near: ", "(похожие: ")
    return message
