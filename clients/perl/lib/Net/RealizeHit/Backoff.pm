package Net::RealizeHit::Backoff;

use v5.36;

use List::Util qw(min);

our $VERSION = '0.1.0';

sub new ( $class, $base, $cap ) { return bless { base => $base, cap => $cap, attempts => 0 }, $class }

# The next delay in seconds, drawn evenly from zero to a bound that doubles.
sub next_delay ($self) {
    my $bound = min( $self->{cap}, $self->{base} * 2**min( $self->{attempts}++, 30 ) );
    return rand $bound;
}

sub reset_attempts ($self) { $self->{attempts} = 0; return }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Backoff - delays with full jitter

=head1 DESCRIPTION

Internal to L<Net::RealizeHit>.

=head1 METHODS

=head2 new

Takes the first and the last bound in seconds.

=head2 next_delay

The next delay in seconds.

=head2 reset_attempts

Begins again with the first bound.

=cut
