// Says which request the pointer is nearest to. The dots are the data: nothing is stored twice.
(function () {
  'use strict';
  var tip = document.createElement('div');
  tip.className = 'tip';
  tip.hidden = true;
  document.body.appendChild(tip);
  function time(us) {
    var size = Math.abs(us);
    if (size < 1e3) { return Math.round(us) + ' µs'; }
    return size < 1e6 ? Number((us / 1e3).toPrecision(3)) + ' ms' : Number((us / 1e6).toPrecision(3)) + ' s';
  }
  function dotsOf(plot) {
    var dots = [], mark = /M([\d.]+) ([\d.]+)h0/g;
    plot.querySelectorAll('path.dots').forEach(function (path) {
      for (var m, d = path.getAttribute('d'); (m = mark.exec(d));) {
        dots.push([Number(m[1]), Number(m[2]), path.dataset.phase]);
      }
    });
    return dots;
  }
  document.querySelectorAll('.plot').forEach(function (plot) {
    var dots = null, svg = plot.querySelector('svg'), area = svg.viewBox.baseVal, data = plot.dataset;
    plot.addEventListener('pointermove', function (event) {
      dots = dots || dotsOf(plot);
      var box = svg.getBoundingClientRect(), best = null, least = 15 * 15;
      dots.forEach(function (dot) {
        var dx = dot[0] / area.width * box.width - (event.clientX - box.left);
        var dy = dot[1] / area.height * box.height - (event.clientY - box.top);
        if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = dot; }
      });
      tip.hidden = !best;
      if (!best) { return; }
      var from = Number(data.from), low = Number(data.low), strip = Number(data.strip);
      var at = from + best[0] / area.width * (Number(data.to) - from);
      var place = (1 - best[1] / area.height) / (1 - strip);
      tip.textContent = '≈ ' + time(Math.pow(10, low + place * (Number(data.high) - low))) + ', at ' + time(at) + ' (' + best[2] + ')';
      tip.style.left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4) + 'px';
      tip.style.top = (event.clientY + 14) + 'px';
    });
    plot.addEventListener('pointerleave', function () { tip.hidden = true; });
  });
})();
