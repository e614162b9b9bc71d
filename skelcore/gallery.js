// The gallery's behaviour. What tracks are called is data: it reaches the page as text, never as markup.
(() => {
  'use strict';
  const PAGE = 48, BINS = 40;
  const root = document.currentScript.parentElement;
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const count = data.tracks, poses = data.poses, V = poses.joints;

  // ---- data
  function bytes(text, begin = 0, end = Infinity) {
    // Three bytes are four letters, so that a part can be read without the rest.
    const skipped = begin % 3;
    const letters = atob(text.slice((begin - skipped) / 3 * 4, end === Infinity ? undefined : Math.ceil(end / 3) * 4));
    const size = Math.min(letters.length - skipped, end - begin), found = new Uint8Array(size);
    for (let i = 0; i < size; i++) found[i] = letters.charCodeAt(skipped + i);
    return found;
  }
  const typed = (Kind, text) => new Kind(bytes(text).buffer);
  const numbers = data.numbers.map(({name, low, high, values}) =>
    ({name, low, high, values: typed(Float32Array, values), min: -Infinity, max: Infinity}));
  for (const one of numbers) {
    one.lowest = Infinity;
    one.highest = -Infinity;
    for (const value of one.values) {
      if (value < one.lowest) one.lowest = value;
      if (value > one.highest) one.highest = value;
    }
  }
  const varied = numbers.filter(one => one.lowest < one.highest);  // the others sift nothing
  const verdict = typed(Uint16Array, data.verdict), number = typed(Uint32Array, data.number);
  const frames = typed(Uint32Array, data.frames), persons = typed(Uint32Array, data.persons);
  const block = typed(Uint32Array, data.block), size = typed(Uint32Array, data.size);
  const group = typed(Int32Array, data.group), original = typed(Int32Array, data.original);
  const likeness = typed(Float32Array, data.likeness);
  const sources = data.sources.map(({name, words, codes}) => ({name, words, codes: typed(Uint32Array, codes)}));
  const posed = typed(Uint32Array, poses.tracks), posedAt = new Int32Array(count).fill(-1);
  const poseFrames = typed(Uint32Array, poses.frames), posePersons = typed(Uint32Array, poses.persons);
  const poseFps = typed(Float32Array, poses.fps), poseFirst = new Float64Array(posed.length);
  for (let i = 0, first = 0; i < posed.length; first += poseFrames[i] * posePersons[i], i++) {
    posedAt[posed[i]] = i;
    poseFirst[i] = first;
  }

  const said = (track, name) => {
    const source = sources.find(one => one.name === name);
    return source ? source.words[source.codes[block[track]]] : '';
  };
  const id = track => `${data.keys[block[track]]}/${String(number[track]).padStart(4, '0')}`;
  const title = track => said(track, 'label') || id(track);
  const shown = value => Number.isNaN(value) ? '–' : Number.isInteger(value) && Math.abs(value) < 1e15 ? value.toLocaleString('en')
    : String(+value.toPrecision(4));
  const words = name => name.replaceAll('_', ' ');

  function clip(track) {
    const at = posedAt[track];
    if (at < 0) return null;
    const total = poseFrames[at] * posePersons[at], first = poseFirst[at];
    return {frames: poseFrames[at], persons: posePersons[at], fps: poseFps[at],
            xy: new Uint16Array(bytes(poses.xy, first * V * 4, (first + total) * V * 4).buffer),
            scores: bytes(poses.scores, first * V, (first + total) * V)};
  }

  // ---- drawing
  function draw(canvas, {frames: length, persons: people, xy, scores}, at) {
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!side) return;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const pen = canvas.getContext('2d'), now = Math.min(Math.floor(at), length - 1);
    const share = at - now, after = Math.min(now + 1, length - 1);
    pen.clearRect(0, 0, side, side);
    pen.lineWidth = Math.max(1.5, side / 70);
    pen.lineCap = 'round';
    for (let person = 0; person < people; person++) {
      const here = (now * people + person) * V, next = (after * people + person) * V;
      const place = (joint, axis) => {
        const from = xy[2 * (here + joint) + axis], to = xy[2 * (next + joint) + axis];
        return (from + (to === poses.missing ? 0 : share * (to - from))) / poses.grid * side;
      };
      for (const [a, b, part] of poses.limbs) {
        if (xy[2 * (here + a)] === poses.missing || xy[2 * (here + b)] === poses.missing) continue;
        pen.strokeStyle = `rgba(${poses.colours[part]},${0.25 + 0.75 * Math.min(scores[here + a], scores[here + b]) / 255})`;
        pen.beginPath();
        pen.moveTo(place(a, 0), place(a, 1));
        pen.lineTo(place(b, 0), place(b, 1));
        pen.stroke();
      }
    }
  }
  const players = new Map();  // canvas -> player; only those in view move
  const watch = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) {
      const player = players.get(target);
      if (player) player.visible = isIntersecting;
    }
  });
  let moving = !matchMedia('(prefers-reduced-motion: reduce)').matches;
  function play(canvas, track) {
    const player = {clip: clip(track), time: 0, playing: null, visible: false, drawn: -1};
    players.set(canvas, player);
    watch.observe(canvas);
    return player;
  }
  function release(inside) {
    for (const canvas of inside.querySelectorAll('canvas')) {
      watch.unobserve(canvas);
      players.delete(canvas);
    }
  }
  let last = performance.now();
  function step(now) {
    const passed = Math.min(now - last, 200) / 1000;
    last = now;
    for (const [canvas, player] of players) {
      if (!player.visible) continue;
      if (player.playing ?? moving) player.time = (player.time + passed) % (player.clip.frames / player.clip.fps);
      const at = player.time * player.clip.fps, key = at + canvas.clientWidth / 1e6;
      if (key === player.drawn) continue;
      player.drawn = key;
      draw(canvas, player.clip, at);
      if (player.told) player.told(player);
    }
    requestAnimationFrame(step);
  }
  requestAnimationFrame(step);

  // ---- small things of the page
  function el(tag, properties = {}, ...inside) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...inside);  // strings become text nodes
    return made;
  }
  function svg(tag, attributes) {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }
  const option = (value, text) => el('option', {value, textContent: text});

  // ---- the sieve
  const allowed = new Uint8Array(data.verdicts.length).fill(1);
  const search = el('input', {type: 'search', placeholder: 'key, address, label, split …', name: 'text'});
  const copies = el('select', {name: 'copies'}, option('', 'all tracks'), option('in', 'only tracks in a group'),
                    option('first', 'without the copies'));
  const only = el('input', {type: 'checkbox', name: 'posed'});
  const boxes = data.verdicts.map((name, i) => el('input', {type: 'checkbox', checked: true, name: 'verdict', value: name,
    onchange: event => { allowed[i] = event.target.checked; sift(); }}));
  const perVerdict = new Uint32Array(data.verdicts.length);
  for (const each of verdict) perVerdict[each]++;
  const grouped = group.some(each => each >= 0);
  const clear = el('button', {type: 'button', textContent: 'clear all', name: 'clear', onclick: () => reset()});

  function allow(which) {
    boxes.forEach((box, i) => { box.checked = which(i); allowed[i] = box.checked; });
    sift();
  }
  const quick = (text, which) => el('button', {type: 'button', textContent: text, onclick: () => allow(which)});

  function histogram(one) {
    const {low, high, values} = one, bins = new Uint8Array(count).fill(255);
    for (let i = 0; i < count; i++) {
      if (!Number.isNaN(values[i])) bins[i] = Math.max(0, Math.min(BINS - 1, Math.floor((values[i] - low) / (high - low) * BINS)));
    }
    const all = svg('path', {class: 'all'}), left = svg('path', {class: 'left'});
    const picture = svg('svg', {viewBox: `0 0 ${BINS} 1`, preserveAspectRatio: 'none', 'aria-hidden': 'true'});
    picture.append(all, left);
    const outline = heights => {
      const most = Math.max(1, ...heights);
      return [...heights].map((height, i) => height ? `M${i} 1v${-Math.max(height / most, .04)}h.9V1z` : '').join('');
    };
    const total = new Uint32Array(256);
    for (const bin of bins) total[bin]++;
    all.setAttribute('d', outline(total.subarray(0, BINS)));
    one.bins = bins;
    one.redraw = () => {
      const some = new Uint32Array(256);
      for (let i = 0; i < order.length; i++) some[bins[order[i]]]++;
      left.setAttribute('d', outline(some.subarray(0, BINS)));
    };
    // A drag over the columns is a range; the outermost columns hold what lies beyond them.
    let from = null;
    const column = event => {
      const box = picture.getBoundingClientRect();
      return Math.max(0, Math.min(BINS - 1, Math.floor((event.clientX - box.left) / box.width * BINS)));
    };
    const drag = event => {
      if (from === null) return;
      const to = column(event), first = Math.min(from, to), end = Math.max(from, to) + 1;
      const edge = bin => +(low + (high - low) * bin / BINS).toPrecision(4);
      one.least.value = first ? edge(first) : '';
      one.most.value = end < BINS ? edge(end) : '';
      limit(one);
    };
    picture.addEventListener('pointerdown', event => { from = column(event); picture.setPointerCapture(event.pointerId); drag(event); });
    picture.addEventListener('pointermove', drag);
    picture.addEventListener('pointerup', () => { from = null; });
    picture.addEventListener('dblclick', () => { one.least.value = one.most.value = ''; limit(one); });
    return picture;
  }
  function limit(one) {
    // The numbers are of 32 bits, and so must their limits be, or 0.3 would not be at most 0.3.
    one.min = one.least.value === '' ? -Infinity : Math.fround(one.least.value);
    one.max = one.most.value === '' ? Infinity : Math.fround(one.most.value);
    one.box.classList.toggle('narrowed', one.min > -Infinity || one.max < Infinity);
    sift();
  }
  function range(one) {
    const field = (what, hint) => el('input', {type: 'number', step: 'any', placeholder: shown(hint), name: `${one.name}.${what}`,
      'aria-label': `${words(one.name)}, ${what}`, oninput: () => limit(one)});
    one.least = field('least', one.lowest);
    one.most = field('most', one.highest);
    one.box = el('div', {className: 'number'}, el('div', {className: 'title', textContent: words(one.name)}), histogram(one),
                 el('div', {className: 'limits'}, one.least, one.most));
    return one.box;
  }

  let order = new Uint32Array(0);  // the tracks that pass, as they are shown
  const orders = new Map();
  function sorted(name) {
    if (orders.has(name)) return orders.get(name);
    const all = Uint32Array.from({length: count}, (_, i) => i);
    if (name === 'posed') all.sort((a, b) => (posedAt[a] < 0) - (posedAt[b] < 0) || a - b);
    const one = numbers.find(each => each.name === name);
    if (one) {
      const rank = value => Number.isNaN(value) ? Infinity : value;
      all.sort((a, b) => { const x = rank(one.values[a]), y = rank(one.values[b]); return x < y ? -1 : x > y ? 1 : a - b; });
    }
    orders.set(name, all);
    return all;
  }
  let haystack = null;
  function blocksWith(text) {
    haystack ??= data.keys.map((key, i) => [`/${key}/`, ...sources.map(one => one.words[one.codes[i]])].join('\n').toLowerCase());
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
    return Uint8Array.from(haystack, straw => wanted.every(word => straw.includes(word)));
  }
  function sift() {
    const pass = new Uint8Array(count), one = /^([\w-]+)\/(\d{4,})$/.exec(search.value.trim());
    const text = one ? `/${one[1]}/` : search.value.trim(), track = one ? +one[2] : -1;
    const there = text ? blocksWith(text) : null, narrowed = varied.filter(one => one.min > -Infinity || one.max < Infinity);
    const which = copies.value, chosen = which.startsWith('#') ? +which.slice(1) : -1;
    for (let i = 0; i < count; i++) {
      pass[i] = allowed[verdict[i]] && (!there || there[block[i]]) && (track < 0 || number[i] === track)
        && (!only.checked || posedAt[i] >= 0)
        && (which === '' || (which === 'in' ? group[i] >= 0 : which === 'first' ? original[i] < 0 : group[i] === chosen));
    }
    for (const {values, min, max} of narrowed) for (let i = 0; i < count; i++) pass[i] &&= values[i] >= min && values[i] <= max;
    const all = sorted(sorter.value), by = numbers.find(each => each.name === sorter.value);
    const found = new Uint32Array(count);
    let size = 0;
    if (by && falling.checked) {
      // Tracks without the number stay last.
      let end = count;
      while (end && Number.isNaN(by.values[all[end - 1]])) end--;
      for (let i = end - 1; i >= 0; i--) if (pass[all[i]]) found[size++] = all[i];
      for (let i = end; i < count; i++) if (pass[all[i]]) found[size++] = all[i];
    } else {
      for (let i = 0; i < count; i++) if (pass[all[i]]) found[size++] = all[i];
    }
    order = found.subarray(0, size);
    falling.disabled = !by;
    const total = count < data.total ? `${count.toLocaleString('en')} tracks (of ${data.total.toLocaleString('en')})`
      : `${count.toLocaleString('en')} tracks`;
    counter.textContent = `${size.toLocaleString('en')} of ${total}`;
    for (const each of varied) each.redraw();
    turn(0);
  }
  function reset() {
    search.value = copies.value = '';
    only.checked = false;
    for (const one of varied) {
      one.least.value = one.most.value = '';
      one.min = -Infinity;
      one.max = Infinity;
      one.box.classList.remove('narrowed');
    }
    allow(() => true);
  }

  // ---- the cards
  const counter = el('span', {className: 'counter', 'aria-live': 'polite'});
  const sorter = el('select', {name: 'sort', 'aria-label': 'order', onchange: () => sift()}, option('posed', 'those with poses first'),
                    option('stored', 'as stored'), ...varied.map(one => option(one.name, `by ${words(one.name)}`)));
  const falling = el('input', {type: 'checkbox', name: 'falling', onchange: () => sift()});
  const pause = el('button', {type: 'button', name: 'pause', onclick: () => { moving = !moving; label(); }});
  const label = () => { pause.textContent = moving ? 'pause' : 'play'; };
  label();
  const list = el('ul'), nothing = el('p', {className: 'nothing', textContent: 'No track passes all filters.'});
  const back = el('button', {type: 'button', name: 'back', textContent: '‹ back', onclick: () => turn(leaf - 1, true)});
  const on = el('button', {type: 'button', name: 'on', textContent: 'on ›', onclick: () => turn(leaf + 1, true)});
  const where = el('input', {type: 'number', name: 'page', min: 1, 'aria-label': 'page', onchange: () => turn(where.value - 1, true)});
  const leaves = el('span');
  let leaf = 0;

  const stage = track => posedAt[track] >= 0 ? el('canvas', {'aria-hidden': 'true'})
    : el('span', {className: 'blank', textContent: 'no poses on this page\n' + numbers.filter(one => ['seconds', 'score', 'height'].includes(one.name))
        .map(one => `${one.name} ${shown(one.values[track])}`).join('\n')});
  function card(place) {
    const track = order[place], one = numbers.find(each => each.name === sorter.value) ?? numbers.find(each => each.name === 'seconds');
    const picture = stage(track), facts = el('span', {className: 'facts'});
    if (verdict[track]) facts.append(el('span', {className: 'reason', textContent: words(data.verdicts[verdict[track]])}), ' · ');
    if (one) facts.append(one.name === 'seconds' ? `${shown(one.values[track])} s` : `${words(one.name)} ${shown(one.values[track])}`);
    if (group[track] >= 0) facts.append(original[track] < 0 ? ' · has copies' : ' · copy');
    const made = el('button', {type: 'button', className: 'card', title: id(track), onclick: () => open(place)}, picture,
                    el('span', {className: 'name', textContent: title(track)}), facts);
    if (picture.tagName === 'CANVAS') play(picture, track);
    return el('li', {}, made);
  }
  function turn(to, scroll = false) {
    const most = Math.max(1, Math.ceil(order.length / PAGE));
    leaf = Math.max(0, Math.min(most - 1, Math.floor(to) || 0));
    release(list);
    const first = leaf * PAGE;
    list.replaceChildren(...Array.from({length: Math.min(PAGE, order.length - first)}, (_, i) => card(first + i)));
    nothing.hidden = order.length > 0;
    where.value = leaf + 1;
    where.max = most;
    leaves.textContent = `of ${most.toLocaleString('en')}`;
    back.disabled = leaf === 0;
    on.disabled = leaf === most - 1;
    foot.hidden = most === 1;
    if (scroll) list.parentElement.scrollIntoView({block: 'start'});
  }
  list.addEventListener('keydown', event => {
    const cards = [...list.querySelectorAll('.card')], at = cards.indexOf(document.activeElement);
    const columns = getComputedStyle(list).gridTemplateColumns.split(' ').length;
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: cards.length - 1 - at}[event.key];
    if (at < 0 || step === undefined) return;
    event.preventDefault();
    cards[Math.max(0, Math.min(cards.length - 1, at + step))].focus();
  });

  // ---- one track
  const dialog = el('dialog', {'aria-label': 'track'});
  let opened = 0;
  function open(place) {
    opened = Math.max(0, Math.min(order.length - 1, place));
    const track = order[opened], picture = stage(track);
    release(dialog);
    const button = (text, name, act, disabled = false) => el('button', {type: 'button', textContent: text, name, onclick: act, disabled});
    const left = el('div', {}, picture), video = block[track];
    if (picture.tagName === 'CANVAS') {
      const player = play(picture, track), time = el('span'), toggle = button('', 'toggle', () => { player.playing = !(player.playing ?? moving); tell(); });
      const scrubber = el('input', {type: 'range', name: 'scrubber', min: 0, max: player.clip.frames - 1, step: 'any', value: 0,
        'aria-label': 'moment', oninput: event => { player.playing = false; player.time = +event.target.value / player.clip.fps; tell(); }});
      const tell = () => { toggle.textContent = player.playing ?? moving ? 'pause' : 'play'; };
      player.told = () => {
        if (document.activeElement !== scrubber || player.playing) scrubber.value = player.time * player.clip.fps;
        time.textContent = `${player.time.toFixed(1)} of ${(player.clip.frames / player.clip.fps).toFixed(1)} s`;
        tell();
      };
      tell();
      left.append(el('div', {className: 'controls'}, toggle, scrubber, time));
    }
    const leave = () => { opened = 0; dialog.close(); list.parentElement.scrollIntoView({block: 'start'}); };
    const more = el('div', {className: 'more'}, button('this video’s tracks', 'video', () => { reset(); search.value = `/${data.keys[video]}/`; sift(); leave(); }));
    if (group[track] >= 0) {
      more.append(button('its copies', 'group', () => {
        reset();
        const value = `#${group[track]}`;
        if (![...copies.options].some(each => each.value === value)) copies.append(option(value, `group ${group[track]}`));
        copies.value = value;
        sift();
        leave();
      }));
    }
    left.append(more);
    const about = el('dl'), values = el('dl', {className: 'values'});
    const add = (to, name, value) => to.append(el('dt', {textContent: name}), el('dd', {textContent: value}));
    add(about, 'verdict', words(data.verdicts[verdict[track]]));
    add(about, 'track', id(track));
    for (const {name, words: known, codes} of sources) if (known[codes[video]]) add(about, words(name), known[codes[video]]);
    if (size[2 * video]) add(about, 'frame', `${size[2 * video + 1]} × ${size[2 * video]} pixels`);
    add(about, 'stored', `${frames[track].toLocaleString('en')} frames of ${persons[track]} ${persons[track] > 1 ? 'persons' : 'person'}`);
    if (group[track] >= 0) {
      add(about, 'copies', `group ${group[track]}` + (original[track] >= 0 ? `, copy of ${id(original[track])}`
        + ` (likeness ${shown(likeness[track])})` : ''));
    }
    for (const one of numbers) add(values, words(one.name), shown(one.values[track]) + (one.name === 'start' || one.name === 'seconds' ? ' s' : ''));
    dialog.replaceChildren(
      el('div', {className: 'head'}, el('h3', {textContent: title(track)}),
         button('‹', 'previous', () => open(opened - 1), opened === 0), button('›', 'next', () => open(opened + 1), opened === order.length - 1),
         button('close', 'close', () => dialog.close())),
      el('div', {className: 'both'}, left, el('div', {}, about, values)));
    if (!dialog.open) dialog.showModal();
  }
  dialog.addEventListener('keydown', event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step || event.target.type === 'range') return;
    event.preventDefault();
    open(opened + step);
  });
  dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('close', () => {
    release(dialog);
    dialog.replaceChildren();
    if (Math.floor(opened / PAGE) !== leaf) turn(Math.floor(opened / PAGE));
    list.children[opened - leaf * PAGE]?.firstChild.focus();
  });

  // ---- the page
  search.addEventListener('input', () => sift());
  for (const control of [copies, only]) control.addEventListener('change', () => sift());
  const sieve = el('form', {className: 'sieve', 'aria-label': 'filters', onsubmit: event => event.preventDefault()},
    el('label', {}, el('span', {textContent: 'Source'}), search));
  const named = (i, name) => el('label', {}, boxes[i], words(name), el('span', {className: 'count', textContent: perVerdict[i].toLocaleString('en')}));
  if (data.verdicts.length > 1) {
    sieve.append(el('fieldset', {}, el('legend', {textContent: 'Gate'}),
      el('div', {className: 'some'}, quick('all', () => true), quick('kept', i => i === 0), quick('rejected', i => i > 0)),
      ...data.verdicts.map((name, i) => named(i, name))));
  }
  if (grouped) sieve.append(el('label', {}, el('span', {textContent: 'Copies'}), copies));
  if (posed.length < count) {
    sieve.append(el('fieldset', {}, el('label', {}, only, 'only those with poses',
      el('span', {className: 'count', textContent: posed.length.toLocaleString('en')}))));
  }
  sieve.append(el('details', {open: matchMedia('(min-width: 761px)').matches}, el('summary', {textContent: 'Numbers'}), ...varied.map(range)),
               clear);
  const foot = el('div', {className: 'bar foot'}, back, el('label', {}, 'page ', where, ' ', leaves), on);
  root.append(sieve, el('div', {}, el('div', {className: 'bar'}, counter, el('label', {}, 'order ', sorter), el('label', {}, falling, 'falling'), pause),
                        list, nothing, foot), dialog);
  sift();
})();
