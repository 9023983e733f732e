package Net::RealizeHit::Number;

use v5.36;

our $VERSION = '0.1.0';

use constant MOST_DIGITS => 17;    # that a double needs

# Writes a double as ECMAScript's Number::toString; undef if it is not finite.
sub text_of ($number) {
    $number = unpack 'd', pack 'd', $number;    # an integer becomes a double too
    return if $number != $number || abs $number == 9**9**9;
    return '0' if $number == 0;
    my $sign = $number < 0 ? q{-} : q{};
    my ( $digits, $exponent ) = _shortest( abs $number );
    my $count = length $digits;
    my $point = $exponent + 1;    # where the decimal point stands in the digits
    return $sign . $digits . '0' x ( $point - $count )                       if $count <= $point  && $point <= 21;
    return $sign . substr( $digits, 0, $point ) . q{.} . substr $digits, $point if 0 < $point     && $point <= 21;
    return $sign . '0.' . '0' x -$point . $digits                            if -6 < $point       && $point <= 0;
    my $fraction = $count == 1 ? q{} : q{.} . substr $digits, 1;
    return sprintf '%s%s%se%+d', $sign, substr( $digits, 0, 1 ), $fraction, $exponent;
}

# The fewest digits that distinguish a double from its neighbours, without zeros at the end, and the exponent of the first.
sub _shortest ($number) {
    for my $precision ( 0 .. MOST_DIGITS - 1 ) {
        my ( $digits, $exponent ) = split /e/, sprintf '%.*e', $precision, $number;
        $digits =~ tr/.//d;

        # Beside a power of two the nearest text of this length may be another double, and the next one this double.
        for my $candidate ( $digits, $digits + 1, $digits - 1 ) {
            next if $candidate <= 0;
            next if "${candidate}e" . ( $exponent - $precision ) != $number;
            my $first = $exponent + length($candidate) - length $digits;
            return ( $candidate =~ s/0+\z//r, $first );
        }
    }
    die "there is no text for the number $number\n";
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Number - numbers as ECMAScript writes them

=head1 DESCRIPTION

Internal to L<Net::RealizeHit::Pattern>.

=head1 FUNCTIONS

=head2 text_of

The text of a double with the fewest digits that distinguish it from its neighbours; C<undef> for NaN and the infinities.

=cut
